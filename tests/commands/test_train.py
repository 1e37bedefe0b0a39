"""run_clm.py from text to checkpoint: what it learns, what it writes down, and how it fails."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.runs import COUNTING, TINY, as_options, mistake, run_command, write_counting_corpus
from tinystories.atomic import seal
from tinystories.commands import train
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import load_corpus, pick_stories
from tinystories.training.resume import check_run_folder, prepare_run_folder


pytestmark = pytest.mark.slow


def open_run(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def test_learns_the_only_continuation(counting_run):
    """Shifted twice, the labels would make this "one three five"; without EOS it would never stop."""
    model, tokenizer = open_run(counting_run)
    inputs = tokenizer("Story 7. one two", return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=48)[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"Story 7. {COUNTING}"
    assert ids[-1].item() == tokenizer.eos_token_id


def independent_score(model, tokenizer, stories):
    """Nats, tokens and bytes, story by story, with nothing of the project's scoring."""
    nats = tokens = 0
    for text in stories:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(log_probabilities[t, ids[t + 1]].item() for t in range(len(ids) - 1))
        tokens += len(ids) - 1
    return nats / tokens, nats / math.log(2) / sum(len(text.encode()) for text in stories), tokens


def recipe_data(folder):
    return read_recipe([str(folder / "recipe.json")]).data


def test_final_numbers(counting_run):
    """They are those of the checkpoint on disk, computed again story by story."""
    results = json.loads((counting_run / "all_results.json").read_text())
    corpus = load_corpus(recipe_data(counting_run))
    loss, bits_per_byte, tokens = independent_score(*open_run(counting_run), corpus.validation["text"])
    assert results["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert results["eval_bits_per_byte"] == pytest.approx(bits_per_byte, abs=1e-5)
    assert results["eval_perplexity"] == pytest.approx(math.exp(loss), abs=1e-4)
    assert results["eval_tokens"] == tokens
    assert results["eval_stories"] == len(corpus.validation) == 10


@pytest.fixture(scope="module")
def uneven_run(tmp_path_factory):
    """A finished run on stories of very different lengths; the best checkpoint is chosen by bits per byte."""
    folder = tmp_path_factory.mktemp("uneven")
    corpus = folder / "corpus.txt"
    stories = [f"Number {i}. " + "The cat sat on the mat. " * (1 + i % 7) for i in range(120)]
    corpus.write_text("<|endoftext|>".join(stories), encoding="utf-8")
    options = TINY | {"train_file": corpus, "data_cache_dir": folder / "cache", "output_dir": folder / "run"}
    options |= {"max_steps": 10, "eval_steps": 5, "save_steps": 5, "validation_fraction": 0.3, "max_eval_samples": 17}
    options |= {"per_device_eval_batch_size": 4, "metric_for_best_model": "bits_per_byte"}
    process = run_command("run_clm.py", *as_options(options))
    assert process.returncode == 0, process.stderr[-2000:]
    return folder / "run"


def test_evaluation_weighs_tokens(uneven_run):
    """A mean over batches or stories would give another number."""
    sample = pick_stories(load_corpus(recipe_data(uneven_run)).validation, 17)
    for step in (5, 10):
        checkpoint = uneven_run / f"checkpoint-{step}"
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        logged = next(row for row in state["log_history"] if row["step"] == step and "eval_loss" in row)
        loss, bits_per_byte, _ = independent_score(*open_run(checkpoint), sample["text"])
        assert logged["eval_loss"] == pytest.approx(loss, abs=1e-4)
        assert logged["eval_bits_per_byte"] == pytest.approx(bits_per_byte, abs=1e-4)


def test_best_by_bits_per_byte(uneven_run):
    """The lowest value is the best."""
    state = json.loads((uneven_run / "trainer_state.json").read_text())
    scores = {row["step"]: row["eval_bits_per_byte"] for row in state["log_history"] if "eval_loss" in row}
    assert len(scores) == 2 and state["best_global_step"] == min(scores, key=scores.get)


def test_best_weights(counting_run):
    """The run folder holds the weights of the checkpoint with the lowest loss."""
    state = json.loads((counting_run / "trainer_state.json").read_text())
    best = counting_run / f"checkpoint-{state['best_global_step']}"
    best_weights, weights = (load_file(folder / "model.safetensors") for folder in (best, counting_run))
    assert all(torch.equal(weights[name], best_weights[name]) for name in weights)
    evaluations = {row["step"]: row["eval_loss"] for row in state["log_history"] if "eval_loss" in row}
    assert min(evaluations, key=evaluations.get) == state["best_global_step"]


def test_records(counting_run):
    """Recipe, samples, data report and log of a run."""
    recipe = json.loads((counting_run / "recipe.json").read_text())
    assert recipe["hidden_size"] == TINY["hidden_size"] and recipe["learning_rate"] == TINY["learning_rate"]
    samples = [json.loads(line) for line in (counting_run / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [50, 100]
    assert all(sample["text"].startswith("Story 7. one two") for sample in samples)
    report = json.loads((counting_run / "data_report.json").read_text())
    assert report["train_stories"] + report["validation_stories"] == 200
    assert len(report["guards"]) == 25
    log = (counting_run / "stderr.txt").read_text()
    assert "parameters (2 layers, width 64" in log and "bytes per token" in log


def test_no_pickle(counting_run):
    assert not list(counting_run.glob("*.bin")) + list(counting_run.glob("*.pt")) + list(counting_run.glob("*.pth"))


def test_guards_leave_weights_alone(tmp_path):
    """A run with guards ends with the weights of one without: the guards use up no random numbers."""
    corpus = write_counting_corpus(tmp_path)
    weights = []
    for name, extra in (("guarded", []), ("unguarded", ["--skip_guards"])):
        options = TINY | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "output_dir": tmp_path / name}
        options |= {"max_steps": 6, "eval_steps": 3, "save_steps": 3, "resid_pdrop": 0.1}
        process = run_command("run_clm.py", *as_options(options), *extra)
        assert process.returncode == 0, process.stderr[-2000:]
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    guarded, unguarded = weights
    assert all(torch.equal(guarded[name], unguarded[name]) for name in guarded)


def test_long_stories(tmp_path):
    """Stories far longer than the context."""
    corpus = tmp_path / "long.txt"
    long_story = "And then the little boat went on and on. " * 200
    corpus.write_text("<|endoftext|>".join([long_story + str(i) for i in range(4)]), encoding="utf-8")
    options = TINY | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    options |= {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "validation_fraction": 0.25}
    process = run_command("run_clm.py", *as_options(options))
    assert process.returncode == 0, process.stderr[-2000:]
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["eval_bytes"] == len(long_story) + 1


def make_file(name, content):
    def make(folder):
        path = folder / name
        path.write_bytes(content)
        return path

    return make


MISTAKES = {
    "unknown key": (None, ["--learning_rat", "1"], "did you mean learning_rate"),
    "wrong type": (None, ["--max_steps", "1.5"], "max_steps: invalid int value: '1.5'"),
    "missing file": (lambda folder: folder / "none.txt", [], "no such file or folder"),
    "empty corpus": (make_file("empty.txt", b""), [], "contains no story"),
    "blank corpus": (make_file("blank.txt", b" \n\n \n"), [], "contains no story"),
    "not UTF-8": (make_file("latin.txt", "One day.\n\nA caf\xe9.\n".encode("latin-1")), [], "latin.txt:3: not UTF-8"),
    "one story only": (make_file("one.txt", b"Once there was one story."), [], "too few to hold any out"),
    "less than a row": (make_file("few.txt", b"One.\n\nTwo.\n\nThree.\n"), [], "fewer than one row of block_size 64"),
    "no source": (None, ["--num_sample_stories", "0"], "num_sample_stories must be at least 1"),
    "heads do not divide": (None, ["--num_attention_heads", "3"], "must be a multiple of num_attention_heads"),
    "tokenizer that is none": (None, ["--tokenizer_name", "nowhere/at-all"], "no folder nowhere/at-all here"),
    "odd rotary width": (None, ["--partial_rotary_factor", "0.1"], "even number of rotated dimensions"),
    "a metric that does not exist": (None, ["--metric_for_best_model", "bpb"], "bits_per_byte, not 'bpb'"),
    "evaluation made inexact": (None, ["--remove_unused_columns", "true"], "remove_unused_columns must stay False"),
    "resuming nothing": (None, ["--resume_from_checkpoint", "true"], "true: there is no complete checkpoint"),
    "resuming another run": (None, ["--resume_from_checkpoint", "elsewhere"], "use --model_name_or_path"),
    "a tracker that does not exist": (None, ["--skip_guards", "--report_to", "nothing"], "nothing is not supported"),
    "contradicting arguments": (None, ["--save_steps", "7"], "multiple of the evaluation steps"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path, offline):
    """A mistake is one line that says what to do."""
    make_corpus, extra, message = MISTAKES[name]
    corpus = (make_corpus or write_counting_corpus)(tmp_path)
    options = TINY | {"data_cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    if "--num_sample_stories" not in extra:
        options["train_file"] = corpus
    assert message in mistake(train.main, [*as_options(options), *extra])


def test_mistake_as_a_process():
    """One line on stderr, exit status 1, no traceback."""
    process = run_command("run_clm.py", "--train_file", "none.txt")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in process.stderr


def test_debug_shows_traceback(tmp_path):
    process = run_command("run_clm.py", "--train_file", tmp_path / "none.txt", "--debug")
    assert process.returncode != 0
    assert "Traceback" in process.stderr


def test_earlier_run_is_kept(counting_run):
    before = (counting_run / "model.safetensors").read_bytes()
    assert "contains an earlier run" in mistake(train.main, [str(counting_run / "recipe.json")])
    assert (counting_run / "model.safetensors").read_bytes() == before


def test_overwrite(tmp_path):
    """Overwriting a run removes all of its files and no others; a mistake overwrites nothing."""
    corpus = write_counting_corpus(tmp_path)
    options = TINY | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    options |= {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "warmup_steps": 0}
    assert run_command("run_clm.py", *as_options(options)).returncode == 0
    before = sorted(file.name for file in (tmp_path / "run").iterdir())
    mistaken = as_options(options | {"train_file": tmp_path / "none.txt"})
    assert "no such file" in mistake(train.main, [*mistaken, "--overwrite_output_dir"])
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == before
    (tmp_path / "run" / "my-stories.jsonl").write_text("{}", encoding="utf-8")
    shorter = as_options(options | {"max_steps": 1, "block_size": 32, "load_best_model_at_end": False})
    process = run_command("run_clm.py", *shorter, "--overwrite_output_dir")
    assert process.returncode == 0, process.stderr[-2000:]
    assert "weights: those of the last step" in process.stderr
    assert "this checkpoint: step 1" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / "run" / "my-stories.jsonl").exists()
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 1


def test_other_folder_is_kept(tmp_path):
    """--output_dir names a folder that no run has written."""
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    arguments = ["--num_sample_stories", "10", "--output_dir", str(tmp_path)]
    assert "contains no earlier run" in mistake(train.main, arguments)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_infinite_gradients(tmp_path):
    """They stop the run with one line, and the rows of the step are saved."""
    options = TINY | {"train_file": write_counting_corpus(tmp_path), "data_cache_dir": tmp_path / "cache"}
    options |= {"output_dir": tmp_path / "run", "max_steps": 6, "eval_steps": 3, "save_steps": 3}
    process = run_command("run_clm.py", *as_options(options | {"learning_rate": 1e30}))
    assert process.returncode == 2
    assert "error: the gradients are not finite at step 3" in process.stderr
    rows = (tmp_path / "run" / "stopped_at_step_3.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == TINY["per_device_train_batch_size"] and all(
        "one two" in json.loads(row)["text"] for row in rows
    )
    assert "Traceback" not in process.stderr


def test_recipe_repeats_run(counting_run, tmp_path):
    """recipe.json trains the same weights again."""
    process = run_command("run_clm.py", counting_run / "recipe.json", "--output_dir", tmp_path / "again")
    assert process.returncode == 0, process.stderr[-2000:]
    first, again = (load_file(folder / "model.safetensors") for folder in (counting_run, tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def interrupted(run, folder):
    """A copy of the run as it was when it had got to step 50."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint-100"))
    (folder / "model.safetensors").unlink()
    (folder / "checkpoint-75").mkdir()  # half a save: no state
    return folder


@pytest.fixture(scope="module")
def interrupted_run(counting_run, tmp_path_factory):
    return interrupted(counting_run, tmp_path_factory.mktemp("interrupted") / "run")


def test_resume(counting_run, interrupted_run):
    """To the bit: data order, random state, optimizer and schedule are those of the moment it was saved."""
    options = ("--output_dir", interrupted_run, "--resume_from_checkpoint", "true")
    process = run_command("run_clm.py", counting_run / "recipe.json", *options)
    assert process.returncode == 0, process.stderr[-3000:]
    for name in ("model.safetensors", "checkpoint-100/model.safetensors"):
        whole, resumed = (load_file(folder / name) for folder in (counting_run, interrupted_run))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    steps = [json.loads(line)["step"] for line in (interrupted_run / "samples.jsonl").read_text().splitlines()]
    assert steps == [50, 100], "no sample twice"
    rows = [json.loads(line) for line in (interrupted_run / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [50, 100]
    assert rows[1]["elapsed_seconds"] > rows[0]["elapsed_seconds"], "the seconds of both sessions"
    whole, resumed = (
        json.loads((folder / "all_results.json").read_text()) for folder in (counting_run, interrupted_run)
    )
    assert whole["eval_loss"] == resumed["eval_loss"]
    assert whole["num_input_tokens_seen"] == resumed["num_input_tokens_seen"]
    assert whole["training_flops"] == resumed["training_flops"]
    assert resumed["resumed_from_step"] == 50 and "resumed_from_step" not in whole


def test_lost_best_checkpoint(counting_run, tmp_path):
    """The last weights are not called the best where the checkpoint with the best is missing."""
    folder = interrupted(counting_run, tmp_path / "run")
    (folder / "checkpoint-25").mkdir()
    path = folder / "checkpoint-50" / "trainer_state.json"
    best = {"best_metric": 0.0, "best_global_step": 25, "best_model_checkpoint": str(folder / "checkpoint-25")}
    path.write_text(json.dumps(json.loads(path.read_text()) | best))
    (folder / "checkpoint-50" / "sealed.json").unlink()
    seal(folder / "checkpoint-50")
    options = ("--output_dir", folder, "--resume_from_checkpoint", "true")
    process = run_command("run_clm.py", counting_run / "recipe.json", *options)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "checkpoint-25, cannot be used" in process.stderr
    assert f"weights: the best checkpoint, {folder / 'checkpoint-100'}" in process.stderr, "the best since then"
    assert "this checkpoint: step 100" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--hidden_size", "128"], "hidden_size was 64 when"),
        (["--max_train_samples", "50"], "max_train_samples was None when"),
        (["--seed", "7"], "seed was 42 when"),
        (["--learning_rate", "1e-5"], "learning_rate was 0.01 when"),
        (["--per_device_train_batch_size", "2"], "rows in a step"),
        (["--max_steps", "40"], "has done "),
    ],
)
def test_resume_with_other_settings(options, reason, counting_run, interrupted_run):
    """Refused, with the setting that differs."""
    going_on = ["--output_dir", str(interrupted_run), "--resume_from_checkpoint", "true"]
    assert reason in mistake(train.main, [str(counting_run / "recipe.json"), *going_on, *options])


def test_resume_with_other_stories(counting_run, tmp_path):
    """Under the same file name, and with a tokenizer that does not change with them."""
    folder = interrupted(counting_run, tmp_path / "run")
    stories = tmp_path / "counting.txt"
    stories.write_text((counting_run.parent / "counting.txt").read_text() + "A new one.\n<|endoftext|>\n")
    for path in (folder / "recipe.json",):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"train_file": str(stories)}))
    options = ["--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    message = mistake(train.main, [str(folder / "recipe.json"), *options])
    assert "the training stories or the tokenizer changed since" in message


def test_incomplete_checkpoints(counting_run, tmp_path):
    """Folders that are not a complete checkpoint are skipped; a run without its records is refused."""
    folder = interrupted(counting_run, tmp_path / "run")
    (folder / "checkpoint-best").mkdir()
    for name in ("checkpoint-best", "checkpoint-75"):
        (folder / name / "trainer_state.json").write_text('{"global_st')  # cut off while it was written
    training = RunArguments(output_dir=str(folder), resume_from_checkpoint="true")
    assert check_run_folder(training) == str(folder / "checkpoint-50")
    training = RunArguments(output_dir=str(folder), resume_from_checkpoint=str(folder / "checkpoint-20"))
    assert "can only be resumed from its last checkpoint" in mistake(check_run_folder, training)
    report = json.loads((folder / "data_report.json").read_text())
    del report["began_with"]
    (folder / "data_report.json").write_text(json.dumps(report))
    training = RunArguments(output_dir=str(folder), resume_from_checkpoint="true")
    assert "data_report.json" in mistake(check_run_folder, training), "a run that an earlier version began"
    (folder / "recipe.json").unlink()
    assert "recipe.json" in mistake(
        check_run_folder, RunArguments(output_dir=str(folder), resume_from_checkpoint="true")
    )


def test_resume_at_final_score(counting_run, tmp_path):
    """The weights are those of the best checkpoint, and no card or result of another one is beside them."""
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder)
    for name in ("README.md", "all_results.json", "eval_results.json"):
        (folder / name).unlink()
    options = ("--output_dir", folder, "--resume_from_checkpoint", "true")
    process = run_command("run_clm.py", counting_run / "recipe.json", *options)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "what is left is the final score" in process.stderr
    assert not (folder / "checkpoint-101").exists()
    before, after = (json.loads((run / "all_results.json").read_text()) for run in (counting_run, folder))
    assert before == after and before["energy_kwh"] > 0
    first, again = (load_file(run / "model.safetensors") for run in (counting_run, folder))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_resume_removes_results(counting_run, tmp_path):
    """Old results are removed; a card that the user edited is kept under another name."""
    folder = interrupted(counting_run, tmp_path / "run")
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write("My own words.\n")
    recipe = read_recipe([str(counting_run / "recipe.json"), "--output_dir", str(folder)])
    assert prepare_run_folder(recipe, {}, str(folder / "checkpoint-50"))["train_loss"] > 0
    left = {path.name for path in folder.iterdir() if path.is_file()}
    lasting = {"samples.jsonl", "evaluations.jsonl", "evaluations.csv", "environment.json", "stdout.txt", "stderr.txt"}
    lasting.add("provenance.jsonl")
    assert left == {"README.edited.md", "recipe.json", "data_report.json"} | lasting
    assert "My own words." in (folder / "README.edited.md").read_text(encoding="utf-8")
