"""Mutations: a bug is put into a copy of the project, and the command must stop with the guard's reason.

Each mutation is a silent mistake with which every printed number looks right while the model learns nonsense.
"""

import json
import shutil

import datasets
import pytest

from helpers.forked import fork_command
from helpers.mutations import assert_stopped, small_run, train_tokenizer
from helpers.runs import run_command, write_counting_corpus
from tinystories.errors import GuardError
from tinystories.training.guards.corpus import check_text


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
        "tinystories/data/encoding.py",
        "counts = self._count[parts]",
        "counts = np.where(parts == 1, 0, self._count[parts])",
        "no EOS between packed stories",
    ),
    "BOS dropped before stories": (
        "tinystories/data/encoding.py",
        "counts = self._count[parts]",
        "counts = np.where(parts == 0, 0, self._count[parts])",
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
        "padding is in the loss",
    ),
    "one token for padding and EOS": (
        "tinystories/data/tokenizer.py",
        "pad_token=PAD",
        "pad_token=EOS",
        "never learns to stop",
    ),
    "stories truncated by the call": (
        "tinystories/data/encoding.py",
        "text, offsets = _bytes_of(texts)",
        "text, offsets = _bytes_of(pa.array([text[:20] for text in texts.to_pylist()], texts.type))",
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
        "the output of model.layers.0.self_attn differs first",
    ),
}


@pytest.mark.slow
def test_unmutated_project_passes(tmp_path):
    """Started as a user starts it."""
    process = small_run(tmp_path, write_counting_corpus(tmp_path), "--log_level", "debug", run=run_command)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stderr.count("guard passed") >= 40, "before the first step, after it, and at the end"


@pytest.mark.slow
def test_changed_tokenizer_file(tmp_path):
    """A given tokenizer that puts no BOS before a prompt is refused; a truncation stored in it is removed, and said."""
    corpus = write_counting_corpus(tmp_path)
    folder = train_tokenizer(tmp_path / "tokenizer", corpus)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    assert_stopped(small_run(tmp_path, corpus, "--tokenizer_name", str(folder)), "does not put BOS")

    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    process = small_run(tmp_path, corpus, "--tokenizer_name", str(folder))
    assert process.returncode == 0, process.stderr[-2000:]
    assert "stores a truncation at 4 tokens: taken out" in process.stderr
    assert json.loads((tmp_path / "run" / "tokenizer.json").read_text())["truncation"] is None


@pytest.mark.slow
@pytest.mark.parametrize("block_size", ["8", "512"])
def test_good_corpus_passes(block_size, tmp_path):
    """Short and long stories, in rows of any length."""
    corpus = tmp_path / "mixed.txt"
    long_stories = [
        f"Boat {i}. " + "On and on went the boat, over the sea and under the moon. " * 20 for i in range(100)
    ]
    corpus.write_text("<|endoftext|>".join([*long_stories, *(f"Hi {i} there." for i in range(1500))]), encoding="utf-8")
    process = small_run(tmp_path, corpus, "--align_to_stories", "--block_size", block_size)
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.slow
def test_long_stories_in_aligned_rows_pass(tmp_path):
    """The first rows belong to one story that is longer than a row."""
    corpus = write_counting_corpus(tmp_path)
    long_story = "On and on went the boat, over the sea and under the moon. " * 20
    corpus.write_text(f"{long_story}<|endoftext|>{corpus.read_text()}", encoding="utf-8")
    process = small_run(tmp_path, corpus, "--align_to_stories")
    assert process.returncode == 0, process.stderr[-2000:]


STARTED_FRESH = "attention that sees the future"


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, tmp_path):
    """One of them is started as a user starts a run, the others in forked processes."""
    file, old, new, reason = MUTATIONS[name]
    tree, run = mutated_tree(file, old, new), run_command if name == STARTED_FRESH else fork_command
    assert_stopped(small_run(tmp_path, write_counting_corpus(tmp_path), tree=tree, run=run), reason)


@pytest.mark.slow
def test_attention_across_stories(mutated_tree, tmp_path):
    """With --isolate_stories attention must stay inside each story."""
    corpus = write_counting_corpus(tmp_path)
    assert small_run(tmp_path, corpus, "--isolate_stories").returncode == 0
    tree = mutated_tree("tinystories/data/packing.py", 'batch["position_ids"] = ', "_ = ")
    process = small_run(tmp_path, corpus, "--isolate_stories", "--overwrite_output_dir", tree=tree)
    assert_stopped(process, "attention crosses between the stories")


@pytest.mark.slow
def test_rows_of_another_tokenizer(mutated_tree, tmp_path):
    """Rows of another tokenizer are found even if the cache returns them, because its key has no tokenizer."""
    corpus = write_counting_corpus(tmp_path)
    tree = mutated_tree("tinystories/data/packing.py", "tokenizer.backend_tokenizer.to_str(), *ids, ", "")
    swapped = tmp_path / "tokenizer"
    for vocab_size in (290, 280):
        shutil.rmtree(swapped, ignore_errors=True)
        train_tokenizer(swapped, corpus, vocab_size)
        process = small_run(tmp_path, corpus, "--tokenizer_name", str(swapped), "--overwrite_output_dir", tree=tree)
    assert_stopped(process, "another")


def test_mojibake(caplog):
    """A corpus full of it is refused; a little is said."""
    stories = ["The hen said, “Oh!”", "The fish said, â€œOh!â€"]
    check_text(datasets.Dataset.from_dict({"text": stories[:1] * 4 + stories[1:]}))
    assert "mojibake in 1 of 5 stories" in caplog.text and "--clean" in caplog.text
    with pytest.raises(GuardError, match=r"mojibake in 2 of 5 stories .*--clean"):
        check_text(datasets.Dataset.from_dict({"text": stories[:1] * 3 + stories[1:] * 2}))


@pytest.mark.slow
def test_validation_in_training_data(tmp_path):
    """Refused by the guard; with --skip_guards the run continues and warns."""
    corpus = write_counting_corpus(tmp_path)
    assert_stopped(small_run(tmp_path, corpus, "--validation_file", str(corpus)), "are also in the validation data")
    process = small_run(tmp_path, corpus, "--validation_file", str(corpus), "--skip_guards")
    assert process.returncode == 0
    assert "GUARDS SKIPPED" in process.stderr


@pytest.mark.slow
def test_label_smoothing_is_caught(tmp_path):
    """With it, the loss is not the next-token loss."""
    process = small_run(tmp_path, write_counting_corpus(tmp_path), "--label_smoothing_factor", "0.1")
    assert_stopped(process, "label_smoothing_factor must be 0")


@pytest.mark.slow
def test_large_initial_weights_are_caught(tmp_path):
    """The fresh loss is not ln(vocabulary)."""
    process = small_run(tmp_path, write_counting_corpus(tmp_path), "--initializer_range", "0.5")
    assert_stopped(process, "its initialization is off")
