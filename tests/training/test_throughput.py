"""What a run reports about itself is true, and a step that goes wrong stops it before it does harm."""

import csv
import json
import math
import random
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerState

from configuration_tinystories import TinyStoriesConfig
from helpers.forked import fork_command
from helpers.runs import TINY, as_options, mistake, write_counting_corpus
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.arguments import RunArguments
from tinystories.config.keys import TokenizerArguments
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import load_corpus, pick_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.evaluation.scoring import scoring_rows
from tinystories.run_files import read_lines
from tinystories.training.environment import flops_per_token, measured_peak
from tinystories.training.loss_spike import FEWEST, is_spike
from tinystories.training.resume import prepare_run_folder
from tinystories.training.throughput import ThroughputCallback, append_evaluation, to_come


slow = pytest.mark.slow


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def logged(folder, key):
    return [row for row in read_json(folder / "trainer_state.json")["log_history"] if key in row]


@slow
def test_tokens_per_second(counting_run):
    """Tokens seen over the seconds of training."""
    rows = logged(counting_run, "tokens_per_second")
    assert [row["step"] for row in rows] == list(range(10, 101, 10))
    tokens = sum(row["tokens_per_second"] * row["training_seconds"] for row in rows)
    assert tokens == pytest.approx(rows[-1]["num_input_tokens_seen"]) and tokens > 0


@slow
def test_training_seconds(counting_run):
    """The seconds agree with the Trainer's, of the training and of each evaluation, which is not part of it."""
    rows, evaluations = logged(counting_run, "tokens_per_second"), logged(counting_run, "eval_runtime")
    training = sum(row["training_seconds"] for row in rows)
    elapsed = [row["elapsed_seconds"] for row in rows]
    assert elapsed == sorted(elapsed)
    results = read_json(counting_run / "train_results.json")
    assert elapsed[-1] <= results["elapsed_seconds"] + 1e-3
    assert 0.7 * results["train_runtime"] <= results["elapsed_seconds"] <= results["train_runtime"] + 1e-3
    first = evaluations[0]  # the second one follows the last log
    assert first["step"] == 50 and training + first["eval_runtime"] <= elapsed[-1] + 1e-3
    assert not any("train_tokens_per_second" in row for row in rows), "the Trainer's speed, which counts evaluations"


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


def small_model():
    config = TinyStoriesConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, head_dim=24
    )
    return TinyStoriesForCausalLM._from_config(config, attn_implementation="eager")


def test_time_to_go(tmp_path, monkeypatch):
    """It is that of the steps, evaluations and saves to come.

    A simulated run: a first step of 30 s that compiles, steps of 2 s, and after each 10 steps 7 s of evaluation and 3 s
    of saving.
    """
    clock = Clock()
    monkeypatch.setattr("tinystories.training.throughput.time", clock)
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, eval_strategy="steps")
    state = TrainerState(max_steps=40, eval_steps=10, save_steps=10, num_input_tokens_seen=0, epoch=0.0)
    throughput = ThroughputCallback(flops_per_token=3.0)
    throughput.earlier = {"elapsed_seconds": 1000.0}  # of an earlier session
    throughput.on_train_begin(args, state, None, small_model())
    rows = {}
    for step in range(1, 41):
        clock.now += 30 if step == 1 else 2
        state.global_step, state.num_input_tokens_seen = step, state.num_input_tokens_seen + 500
        throughput.step(4.0 - step / 10, 1.0, 0.1)
        throughput.on_step_end(args, state, None)
        if step % 5 == 0:
            rows[step] = throughput.at_log(state, args)
        if step % 10 == 0:
            clock.now += 7
            throughput.on_evaluate(args, state, None, {"eval_loss": 1.0, "eval_steps_per_second": 9.9, "epoch": 1})
            clock.now += 3
            throughput.on_save(args, state, None)
    assert rows[5]["eta_seconds"] == pytest.approx(35 * 2), "evaluations are not known yet"
    assert rows[15]["eta_seconds"] == pytest.approx(25 * 2 + 3 * 10)
    assert rows[20]["eta_seconds"] == pytest.approx(20 * 2 + 3 * 10), "those of this step are still to come"
    assert rows[35]["eta_seconds"] == pytest.approx(5 * 2 + 10)
    assert rows[40]["eta_seconds"] == pytest.approx(10)
    assert rows[10]["tokens_per_second"] == rows[15]["tokens_per_second"] == 250, (
        "with and without an evaluation before"
    )
    assert rows[15]["mfu"] == pytest.approx(250 * 3 / rows[15]["peak_flops"])
    assert rows[40]["elapsed_seconds"] == pytest.approx(1000 + 30 + 39 * 2 + 3 * 10)
    table = read_lines(tmp_path / "evaluations.jsonl")
    assert [row["loss"] for row in table] == [pytest.approx(4 - (first + 4.5) / 10) for first in (1, 11, 21, 31)]
    assert [row["tokens_per_second"] for row in table] == [pytest.approx(5000 / 48), 250, 250, 250]
    assert set(table[0]) >= {"tokens_seen", "eval_loss", "learning_rate", "grad_norm", "memory_gb"}
    assert "eval_steps_per_second" not in table[0]


def test_time_to_go_is_of_recent_steps(tmp_path, monkeypatch):
    """A machine that is shared becomes slower: the average of the whole run would say half of the time."""
    clock = Clock()
    monkeypatch.setattr("tinystories.training.throughput.time", clock)
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    state = TrainerState(max_steps=1000, num_input_tokens_seen=0, epoch=0.0)
    throughput = ThroughputCallback(flops_per_token=3.0)
    throughput.on_train_begin(args, state, None, small_model())
    for step in range(1, 501):
        clock.now += 1 if step <= 400 else 10
        state.global_step = step
        throughput.on_step_end(args, state, None)
    assert throughput.eta(state, args) == pytest.approx(500 * 10)


@pytest.mark.parametrize(
    ("strategy", "at", "left"),
    [
        *(("steps", 0, 3), ("steps", 1, 3), ("steps", 10, 3), ("steps", 11, 2), ("steps", 20, 2), ("steps", 21, 1)),
        *(("steps", 25, 1), ("no", 0, 0), ("epoch", 0, 2), ("epoch", 12, 2), ("epoch", 13, 1), ("epoch", 25, 1)),
    ],
)
def test_evaluations_to_come(strategy, at, left):
    """Of 25 steps, which are two epochs: at 10, 20 and the end, and in epochs after 12.5 and 25."""
    state = TrainerState(max_steps=25, global_step=at, num_train_epochs=2, epoch=at / 12.5)
    assert to_come(strategy, 10, state) == left


def test_evaluations_after_a_delay():
    state = TrainerState(max_steps=25, global_step=3, num_train_epochs=2, epoch=0.24)
    assert [to_come("steps", 10, state, first=delay) for delay in (10, 11, 21)] == [3, 2, 1]


def test_flops_of_a_token():
    """As torch counts them, without the half of the attention that the causal mask hides."""
    model = small_model()
    ids = torch.randint(300, (2, 32))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    hidden_half = 6 * 3 * (4 * 24) * 32
    assert counter.get_total_flops() == (flops_per_token(model, 32) + hidden_half) * ids.numel()


@slow
def test_mfu_is_against_the_measured_peak(counting_run):
    """And memory is that of the device."""
    environment = read_json(counting_run / "environment.json")
    assert environment["peak_flops_measured"] > 1e8 and environment["processes"] == environment["threads"] == 1
    for row in logged(counting_run, "mfu"):
        share = row["tokens_per_second"] * environment["flops_per_token"] / row["peak_flops"]
        assert row["mfu"] == pytest.approx(share) and 0 < row["mfu"] < 1
        assert 0.05 < row["memory_gb"] <= environment["device_memory_gb"]


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A run of one log interval a call: (seconds, tokens) -> its row. `peaks`: what the next measurements find."""
    clock, peaks, measured = Clock(), [], []

    def measure(device, dtype, seconds):
        clock.now += 0.01
        measured.append(peaks.pop(0) if peaks else measured[-1])
        return measured[-1]

    monkeypatch.setattr("tinystories.training.throughput.time", clock)
    monkeypatch.setattr("tinystories.training.throughput.measured_peak", measure)
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    state = TrainerState(max_steps=99, num_input_tokens_seen=0, epoch=0.0)
    throughput = ThroughputCallback(flops_per_token=1.0)
    peaks.append(1000.0)
    throughput.on_train_begin(args, state, None, small_model())

    def interval(seconds, tokens, evaluated=False):
        clock.now += seconds
        state.global_step, state.num_input_tokens_seen = state.global_step + 1, state.num_input_tokens_seen + tokens
        throughput.step(4.0, 1.0, 0.1)
        throughput.on_step_end(args, state, None)
        row = throughput.at_log(state, args)
        if evaluated:
            throughput.on_evaluate(args, state, None, {"eval_loss": 1.0})
        return row

    return SimpleNamespace(interval=interval, peaks=peaks, measured=measured, folder=tmp_path)


def test_peak_is_measured_again_when_the_speed_changes(simulated):
    """An MFU against the speed that a shared machine had an hour ago. Small changes are no reason."""
    assert [simulated.interval(10, 5000)["mfu"] for _ in range(3)] == [pytest.approx(0.5)] * 3
    assert simulated.interval(10, 4500)["mfu"] == pytest.approx(0.45) and len(simulated.measured) == 1
    simulated.peaks.append(500.0)
    row = simulated.interval(10, 2500, evaluated=True)
    assert len(simulated.measured) == 2
    assert (row["peak_flops"], row["mfu"]) == (1000, pytest.approx(0.25)), "slow in these seconds, or since them"
    row = simulated.interval(10, 2500, evaluated=True)
    assert (row["peak_flops"], row["mfu"]) == (500, pytest.approx(0.5)) and len(simulated.measured) == 2
    simulated.peaks.append(2000.0)
    row = simulated.interval(10, 9000)
    assert (row["peak_flops"], row["mfu"]) == (2000, pytest.approx(0.45)) and len(simulated.measured) == 3
    rows = read_lines(simulated.folder / "evaluations.jsonl")
    assert [row["peak_flops"] for row in rows] == [1000, 500]
    assert read_json(simulated.folder / "environment.json")["peak_flops_measured"] == 1000


def test_measuring_the_peak_is_cheap(simulated):
    """A speed that changes all the time must not cost more than its share, and none of the training's seconds."""
    for number in range(400):
        row = simulated.interval(0.1, 10 if number % 2 else 50)
        assert row["training_seconds"] == pytest.approx(0.1)
    assert 10 < len(simulated.measured) <= 1 + 0.005 * 40 / 0.01


def test_impossible_mfu(simulated, caplog):
    """The peak is measured again, and the log says so; the run's own speed is a peak that was reached."""
    simulated.peaks.append(4000.0)
    assert simulated.interval(10, 15000, evaluated=True)["mfu"] == pytest.approx(1500 / 4000)
    assert "an MFU of 1.50 is impossible: the peak was measured again, 1e+03 FLOPS before and 4e+03 now" in caplog.text
    simulated.peaks.append(3000.0)
    assert simulated.interval(10, 60000, evaluated=True)["mfu"] == 1
    assert "4e+03 FLOPS before and 3e+03 now; the run itself reaches 6e+03" in caplog.text
    assert all(row["mfu"] <= 1 for row in read_lines(simulated.folder / "evaluations.jsonl"))


@slow
def test_environment_is_anonymous(counting_run):
    """It is published with the model: it names no machine, person or folder."""
    text = (counting_run / "environment.json").read_text(encoding="utf-8")
    assert str(counting_run) not in text and "/" not in text
    assert read_json(counting_run / "environment.json")["torch"] == torch.__version__


def test_measured_peak_keeps_random_state():
    """Measuring must not change the random numbers of the run."""
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert math.isfinite(measured_peak(torch.device("cpu"), torch.float32, seconds=0))
    assert torch.equal(state, torch.random.get_rng_state())


ARTICLES = (
    "An apple fell. A bird saw THE apple and a pear; then the theatre, Anna, a-ha, the man's and a's plan (a)\nthe"
)


@pytest.mark.parametrize("vocab_size", [259, 300, 400])
def test_articles_are_whole_words(vocab_size):
    """However the tokenizer cuts them.

    By token id alone, the start of "apple" would be an article too, and " t" + "he" would not.
    """
    stories = datasets.Dataset.from_dict({"text": [ARTICLES] * 20})
    tokenizer = train_tokenizer(stories, TokenizerArguments(vocab_size=vocab_size))
    (row,) = scoring_rows(stories.select([0]), tokenizer, block_size=512).rows
    words, inside = [], False
    for token, article in zip(row["input_ids"].tolist(), row["articles"].tolist(), strict=True):
        if article:
            words = (
                [*words[:-1], words[-1] + tokenizer.decode([token])] if inside else [*words, tokenizer.decode([token])]
            )
        inside = article
    assert [word.strip() for word in words] == ["An", "A", "THE", "a", "the", "the", "a", "the"]
    windows = scoring_rows(stories.select([0]), tokenizer, block_size=16).rows
    assert sum(window["articles"][window["first_target"] :].sum() for window in windows) == row["articles"].sum()


@pytest.fixture(scope="module")
def article_run(tmp_path_factory):
    """A short run over stories with articles, with dropout; its folder and how to repeat it elsewhere."""
    folder = tmp_path_factory.mktemp("articles")
    heroes = ("cat", "hen", "owl", "ape")
    stories = [f"A {heroes[i % 4]} met an ant, number {i}. " + "The ant sat on a mat. " * (i % 5) for i in range(150)]
    (folder / "corpus.txt").write_text("<|endoftext|>".join(stories), encoding="utf-8")
    options = TINY | {"train_file": folder / "corpus.txt", "data_cache_dir": folder / "cache", "max_steps": 6}
    options |= {"eval_steps": 3, "save_steps": 3, "validation_fraction": 0.3, "max_eval_samples": 17}
    options |= {"resid_pdrop": 0.1, "per_device_eval_batch_size": 4, "skip_guards": True}

    def run(name, *extra):
        process = fork_command("run_clm.py", *as_options(options | {"output_dir": folder / name}), *extra)
        assert process.returncode == 0, process.stderr[-2000:]
        return folder / name

    return run("run"), run


def losses_by_token(folder, stories):
    """(nats, token id, next token id) of every token, one story at a time, with nothing of the project's scoring."""
    model, tokenizer = load_checkpoint(str(folder))
    for text in stories:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            nll = -model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        yield from ((nll[t - 1, ids[t]].item(), tokenizer.decode(ids[t])) for t in range(1, len(ids)))


@slow
def test_loss_of_articles_and_gap(article_run):
    """Both are exact. In this vocabulary every article is one token, and no other word begins or ends like one."""
    folder, _ = article_run
    corpus = load_corpus(read_recipe([str(folder / "recipe.json")]).data)
    for row in read_lines(folder / "evaluations.jsonl"):
        checkpoint = folder / f"checkpoint-{row['step']}"
        tokens = list(losses_by_token(checkpoint, pick_stories(corpus.validation, 17)["text"]))
        articles = [nats for nats, text in tokens if text.strip().lower() in ("a", "an", "the")]
        others = [nats for nats, text in tokens if text.strip().lower() not in ("a", "an", "the")]
        known = [nats for nats, _ in losses_by_token(checkpoint, pick_stories(corpus.train, 17)["text"])]
        assert len(articles) == row["eval_article_tokens"] > 30
        assert row["eval_article_loss"] == pytest.approx(np.mean(articles), abs=1e-5)
        assert row["eval_other_loss"] == pytest.approx(np.mean(others), abs=1e-5)
        assert row["eval_train_loss"] == pytest.approx(np.mean(known), abs=1e-5)
        assert row["eval_gap"] == pytest.approx(row["eval_loss"] - row["eval_train_loss"])


@slow
def test_training_scores_change_nothing(article_run):
    """With scores of training stories, the weights and the other numbers are those of a run without."""
    folder, run = article_run
    without = run("without", "--train_eval_samples", "0")
    first, second = (load_file(place / "model.safetensors") for place in (folder, without))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for with_gap, row in zip(logged(folder, "eval_loss"), logged(without, "eval_loss"), strict=True):
        assert "eval_gap" in with_gap and "eval_gap" not in row
        assert row["eval_loss"] == pytest.approx(with_gap["eval_loss"], abs=1e-6)
        assert row["eval_article_loss"] == pytest.approx(with_gap["eval_article_loss"], abs=1e-6)


def test_negative_train_eval_samples():
    """One line that names the key."""
    said = mistake(read_recipe, ["--num_sample_stories", "50", "--train_eval_samples", "-1"])
    assert "train_eval_samples must be 0 or more" in said


def table_of(folder):
    with (folder / "evaluations.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_files_agree(folder):
    rows, table = read_lines(folder / "evaluations.jsonl"), table_of(folder)
    assert len(rows) == len(table) > 0
    for row, line in zip(rows, table, strict=True):
        assert {key: value for key, value in line.items() if value} == {
            k: str(v) for k, v in row.items() if v is not None
        }
    return [row["step"] for row in rows]


@slow
def test_evaluation_rows(counting_run):
    """Each evaluation is a row in both files, and its numbers are those of the log."""
    assert assert_files_agree(counting_run) == [50, 100]
    rows = read_lines(counting_run / "evaluations.jsonl")
    for row, evaluation in zip(rows, logged(counting_run, "eval_loss"), strict=True):
        assert row["eval_loss"] == evaluation["eval_loss"] and row["tokens_seen"] == evaluation["num_input_tokens_seen"]
    steps = {row["step"]: row["loss"] for row in logged(counting_run, "loss")}
    assert rows[1]["loss"] == pytest.approx(np.mean([steps[step] for step in range(60, 101, 10)]), rel=1e-5)
    assert rows[1]["tokens_seen"] == pytest.approx(
        sum(row["tokens_per_second"] * row["training_seconds"] for row in rows)
    )


@slow
def test_resume_cuts_evaluations(counting_run, tmp_path, caplog):
    """A resumed run keeps the rows up to its checkpoint and names the damaged lines it drops; a new run keeps none."""
    for step, loss in ((50, 2.5), (100, math.nan), (150, 2.0)):
        append_evaluation(tmp_path, {"step": step, "eval_loss": loss} | ({"eval_gap": 0.5} if step == 150 else {}))
    assert assert_files_agree(tmp_path) == [50, 100, 150]
    with (tmp_path / "evaluations.jsonl").open("a", encoding="utf-8") as file:
        file.write('\0\0\n{"step": 160, "eval_lo')
    recipe = read_recipe([str(counting_run / "recipe.json"), "--output_dir", str(tmp_path)])
    (tmp_path / "stopped_at_step_120.jsonl").write_text("{}\n", encoding="utf-8")
    prepare_run_folder(recipe, {}, str(tmp_path / "checkpoint-100"))
    assert "evaluations.jsonl: 2 lines are damaged, the first is line 4" in caplog.text
    assert assert_files_agree(tmp_path) == [50, 100]
    assert (tmp_path / "stopped_at_step_120.jsonl").exists(), "it is kept to be read"
    assert "NaN" not in (tmp_path / "evaluations.jsonl").read_text(encoding="utf-8"), "NaN is not valid JSON"
    prepare_run_folder(recipe, {}, None)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "data_report.json"}


@pytest.mark.parametrize("start", [0.05, 2.0, 9.0])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 2.0])
def test_healthy_run_is_not_stopped(start, noise):
    """A loss that falls from `start`, with batches so large that it hardly varies, or so small that it varies much."""
    for seed in range(5):
        losses = start * np.exp(-np.arange(300) / 80) + noise * np.random.default_rng(seed).normal(size=300)
        assert not any(is_spike(losses[i], losses[max(0, i - 100) : i], nats=3.0) for i in range(300))


def test_spike():
    """A jump of the loss, once there are enough steps to compare it with."""
    before = [2.0, 2.1, 1.9, 2.05] * 10
    assert is_spike(6.0, before, nats=3.0) and not is_spike(4.9, before, nats=3.0)
    assert not is_spike(60.0, before[: FEWEST - 1], nats=3.0)
    assert not is_spike(60.0, before, nats=0), "0 switches it off"
    uneven = [1.0, 3.0] * 20
    assert not is_spike(6.0, uneven, nats=3.0), "no more unusual than its batches are"


@slow
def test_loss_spike_stops_the_run(tmp_path):
    """Before the optimizer's step, with the story written down; --max_loss_spike 0 then passes over it."""
    corpus = write_counting_corpus(tmp_path)
    garbage = "".join(random.Random(1).choices("bcdfgjklmpqz", k=200))
    corpus.write_text(corpus.read_text(encoding="utf-8") + garbage + "\n<|endoftext|>\n", encoding="utf-8")
    options = TINY | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    options |= {"per_device_train_batch_size": 1, "max_steps": 110, "eval_steps": 10, "save_steps": 10}
    options |= {"skip_guards": True}
    process = fork_command("run_clm.py", *as_options(options))
    assert process.returncode == 2 and "Traceback" not in process.stderr
    (error,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "the loss jumped from " in error
    (path,) = (tmp_path / "run").glob("stopped_at_step_*.jsonl")
    assert str(path) in error
    (row,) = read_lines(path)
    assert row["step"] > FEWEST and row["loss"] > 3
    assert len(row["text"]) > 60 and row["text"].removesuffix("<|eos|>").split("<|bos|>")[-1][:50] in garbage
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda place: int(place.name.split("-")[1]))
    assert 0 < row["step"] - int(last.name.split("-")[1]) <= 10
    again = fork_command(
        "run_clm.py", *as_options(options), "--resume_from_checkpoint", "true", "--max_loss_spike", "0"
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert assert_files_agree(tmp_path / "run") == list(range(10, 111, 10))


@slow
def test_non_finite_weights(tmp_path):
    """Non-finite weights are not saved: finite gradients, a non-finite update, and a save at the end of that step."""
    options = TINY | {"train_file": write_counting_corpus(tmp_path), "data_cache_dir": tmp_path / "cache"}
    options |= {"output_dir": tmp_path / "run", "max_steps": 2, "save_steps": 1, "eval_strategy": "no"}
    options |= {"load_best_model_at_end": False, "learning_rate": 1e39, "warmup_steps": 0}
    process = fork_command("run_clm.py", *as_options(options), "--skip_guards")
    assert process.returncode == 2 and "is not finite after step 1, which was not saved" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list((tmp_path / "run").rglob("*.safetensors"))
