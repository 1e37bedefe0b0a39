"""Mutations: a bug is put into a copy of the project, and the real command must stop with the guard's reason.

Each mutation is one of the silent mistakes that let every printed number look right while the model learns nonsense.
"""

import json
import shutil

import datasets
import pytest

from helpers.runs import ROOT, TINY, as_options, run_command, write_counting_corpus
from tinystories.errors import GuardError
from tinystories.training.guards import check_text


MUTATIONS = {
    "labels shifted in the batch as well": (
        "tinystories/data/packing.py",
        '"labels": torch.from_numpy(labels)',
        '"labels": torch.from_numpy(np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED))',
        "the labels of a batch are not its input ids",
    ),
    "labels shifted in the model as well": (
        "modeling_tinystories.py",
        "labels=labels,",
        "labels=nn.functional.pad(labels, (0, 1), value=-100)[:, 1:],",
        "not the next-token loss",
    ),
    "labels never shifted": (
        "modeling_tinystories.py",
        "labels=labels,",
        "labels=labels, shift_labels=labels,",
        "not the next-token loss",
    ),
    "EOS dropped between stories": (
        "tinystories/data/packing.py",
        "np.array([bos, *ids, eos], dtype=dtype)",
        "np.array([bos, *ids], dtype=dtype)",
        "no EOS between packed stories",
    ),
    "BOS dropped before stories": (
        "tinystories/data/packing.py",
        "np.array([bos, *ids, eos], dtype=dtype)",
        "np.array([*ids, eos], dtype=dtype)",
        "no BOS in the packed rows",
    ),
    "EOS left out of the loss": (
        "tinystories/data/packing.py",
        "np.where(ids == self.pad_token_id, IGNORED, ids)",
        "np.where(ids <= 2, IGNORED, ids)",
        "EOS is left out of the loss",
    ),
    "padding in the loss": (
        "tinystories/data/packing.py",
        "np.full((len(rows), longest), IGNORED, dtype=np.int64)",
        "np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)",
        "padding stands in the loss",
    ),
    "one token for padding and EOS": (
        "tinystories/data/tokenizer.py",
        "pad_token=PAD",
        "pad_token=EOS",
        "never learns to stop",
    ),
    "stories truncated by the call": (
        "tinystories/data/packing.py",
        'encoded = tokenizer(batch["text"], add_special_tokens=False)',
        'encoded = tokenizer(batch["text"], add_special_tokens=False, truncation=True, max_length=5)',
        "it was cut",
    ),
    "text normalized by the tokenizer": (
        "tinystories/data/tokenizer.py",
        "    bos_id = backend",
        "    backend.normalizer = tokenizers.normalizers.Lowercase()\n    bos_id = backend",
        "the tokenizer loses text",
    ),
    "typed special tokens obeyed": (
        "tinystories/data/tokenizer.py",
        "split_special_tokens=True",
        "split_special_tokens=False",
        "becomes a special token",
    ),
    "model built for another vocabulary": (
        "tinystories/checkpoint/loading.py",
        "vocab_size=len(tokenizer)",
        "vocab_size=len(tokenizer) + 64",
        "build the model for this tokenizer",
    ),
    "attention that sees the future": (
        "modeling_tinystories.py",
        "self.is_causal = True",
        "self.is_causal = False",
        "after learning one sequence",
    ),
}


def small_run(folder, corpus, *options, tree=ROOT):
    settings = TINY | {"max_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
    settings |= {"train_file": corpus, "data_cache_dir": folder / "cache", "output_dir": folder / "run"}
    return run_command("run_clm.py", *as_options(settings), *options, tree=tree)


def assert_stopped(process, reason, status=2):
    assert process.returncode == status, process.stderr[-2000:]
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr[-2000:]
    assert reason in errors[0]
    assert "Traceback" not in process.stderr


@pytest.fixture
def mutated_tree(tmp_path):
    def mutate(file, old, new):
        tree = tmp_path / "tree"
        tree.mkdir()
        for script in ROOT.glob("*.py"):
            shutil.copy(script, tree)
        shutil.copy(ROOT / "model_card.md", tree)
        shutil.copytree(ROOT / "tinystories", tree / "tinystories", ignore=shutil.ignore_patterns("__pycache__"))
        text = (tree / file).read_text(encoding="utf-8")
        assert old in text, f"{file} no longer holds {old!r}: the mutation is out of date"
        (tree / file).write_text(text.replace(old, new), encoding="utf-8")
        return tree

    return mutate


def test_the_unmutated_project_passes_its_guards(tmp_path):
    process = small_run(tmp_path, write_counting_corpus(tmp_path))
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stderr.count("guard passed") == 9


def test_a_tokenizer_that_puts_no_bos_before_a_prompt_is_caught(tmp_path):
    corpus, folder = write_counting_corpus(tmp_path), tmp_path / "tokenizer"
    options = {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "vocab_size": 300, "output_dir": folder}
    assert run_command("train_tokenizer.py", *as_options(options)).returncode == 0
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert_stopped(small_run(tmp_path, corpus, "--tokenizer_name", str(folder)), "does not put BOS")


@pytest.mark.parametrize("block_size", ["8", "64", "512"])
def test_a_good_corpus_of_short_and_long_stories_passes_whatever_the_row(block_size, tmp_path):
    corpus = tmp_path / "mixed.txt"
    long_stories = [
        f"Boat {i}. " + "On and on went the boat, over the sea and under the moon. " * 20 for i in range(100)
    ]
    corpus.write_text("<|endoftext|>".join([*long_stories, *(f"Hi {i} there." for i in range(1500))]), encoding="utf-8")
    process = small_run(tmp_path, corpus, "--align_to_stories", "--block_size", block_size)
    assert process.returncode == 0, process.stderr[-2000:]


def test_aligned_rows_with_stories_longer_than_a_row_pass_the_guards(tmp_path):
    corpus = write_counting_corpus(tmp_path)
    long_story = "On and on went the boat, over the sea and under the moon. " * 20
    corpus.write_text(f"{long_story}<|endoftext|>{corpus.read_text()}", encoding="utf-8")
    process = small_run(tmp_path, corpus, "--align_to_stories")
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught(name, mutated_tree, tmp_path):
    file, old, new, reason = MUTATIONS[name]
    assert_stopped(small_run(tmp_path, write_counting_corpus(tmp_path), tree=mutated_tree(file, old, new)), reason)


def test_attention_that_crosses_stories_is_caught_where_it_was_to_stay_inside(mutated_tree, tmp_path):
    corpus = write_counting_corpus(tmp_path)
    assert small_run(tmp_path, corpus, "--isolate_stories").returncode == 0
    tree = mutated_tree("tinystories/data/packing.py", 'batch["position_ids"] = ', "_ = ")
    process = small_run(tmp_path, corpus, "--isolate_stories", "--overwrite_output_dir", tree=tree)
    assert_stopped(process, "attention crosses between the stories")


def test_rows_of_another_tokenizer_are_caught_even_if_the_cache_key_forgets_it(mutated_tree, tmp_path):
    corpus, tree = (
        write_counting_corpus(tmp_path),
        mutated_tree("tinystories/data/packing.py", "*_tokenizer_content(tokenizer), ", ""),
    )
    swapped = tmp_path / "tokenizer"
    for vocab_size in (320, 300):
        shutil.rmtree(swapped, ignore_errors=True)
        options = {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "vocab_size": vocab_size}
        assert run_command("train_tokenizer.py", *as_options(options), "--output_dir", swapped).returncode == 0
        process = small_run(tmp_path, corpus, "--tokenizer_name", str(swapped), "--overwrite_output_dir", tree=tree)
    assert_stopped(process, "another")


def test_a_corpus_full_of_mojibake_is_caught_and_a_little_of_it_said(caplog):
    stories = ["The hen said, “Oh!”", "The fish said, â€œOh!â€"]
    check_text(datasets.Dataset.from_dict({"text": stories[:1] * 4 + stories[1:]}))
    assert "mojibake in 1 of 5 stories" in caplog.text and "--clean" in caplog.text
    with pytest.raises(GuardError, match=r"mojibake in 2 of 5 stories .*--clean"):
        check_text(datasets.Dataset.from_dict({"text": stories[:1] * 3 + stories[1:] * 2}))


def test_validation_stories_seen_in_training_are_caught(tmp_path):
    corpus = write_counting_corpus(tmp_path)
    assert_stopped(small_run(tmp_path, corpus, "--validation_file", str(corpus)), "also stand in the validation data")


def test_label_smoothing_is_caught_because_it_is_not_the_next_token_loss(tmp_path):
    process = small_run(tmp_path, write_counting_corpus(tmp_path), "--label_smoothing_factor", "0.1")
    assert_stopped(process, "label_smoothing_factor must be 0")


def test_weights_initialized_too_large_are_caught(tmp_path):
    process = small_run(tmp_path, write_counting_corpus(tmp_path), "--initializer_range", "0.5")
    assert_stopped(process, "its initialization is off")


def test_a_truncation_stored_in_a_given_tokenizer_is_taken_out_and_said(tmp_path):
    corpus, folder = write_counting_corpus(tmp_path), tmp_path / "tokenizer"
    options = {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "vocab_size": 300, "output_dir": folder}
    assert run_command("train_tokenizer.py", *as_options(options)).returncode == 0
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    process = small_run(tmp_path, corpus, "--tokenizer_name", str(folder))
    assert process.returncode == 0, process.stderr[-2000:]
    assert "stores a truncation at 4 tokens: taken out" in process.stderr
    assert json.loads((tmp_path / "run" / "tokenizer.json").read_text())["truncation"] is None


def test_skipping_the_guards_is_said_loudly(tmp_path):
    corpus = write_counting_corpus(tmp_path)
    process = small_run(tmp_path, corpus, "--validation_file", str(corpus), "--skip_guards")
    assert process.returncode == 0
    assert "GUARDS SKIPPED" in process.stderr
