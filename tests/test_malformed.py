"""Corpora and recipes as they should not be: each is one line that names the file and line, or the key.

In this process where it can be, through the commands where it matters.
"""

import gzip
import io
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.runs import TINY, as_options, mistake, run_command, write_counting_corpus
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.commands import check, train
from tinystories.config.keys import DataArguments
from tinystories.config.packaged import BOXED
from tinystories.config.recipe import read_recipe
from tinystories.data.cache import cached_folder
from tinystories.data.corpus import load_corpus
from tinystories.output_file import write_output_file


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


GZIP = gzip.compress(b"Once upon a time. " * 100)[:40]
# name of the file, content, line (0: the file alone can be named), words of the message
CORPORA = {
    "a picture": ("corpus.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 1, "not UTF-8"),
    "zeros": ("corpus.txt", b"One.\n\n" + bytes(64), 3, "zero byte"),
    "UTF-16": ("corpus.txt", "One hen.\n\nOne duck.".encode("utf-16"), 1, "not UTF-8"),
    "UTF-16 without mark": ("corpus.txt", "One hen.\n\nOne duck.".encode("utf-16-le"), 1, "UTF-16"),
    "Latin-1": ("corpus.txt", "One.\n\nTwo.\n\nZoë.".encode("latin-1"), 5, "not UTF-8"),
    "half a character": ("corpus.txt", b"One.\n\nTwo \xed\xa0\xbd.\n", 3, "not UTF-8"),
    "cut in a character": ("corpus.txt", "One.\n\nTwo 🦊".encode()[:-1], 3, "not UTF-8"),
    "half a gzip file": ("corpus.txt", GZIP, 1, "not UTF-8"),
    "nothing": ("corpus.txt", b"", 0, "no story"),
    "only separators": ("corpus.txt", b"<|endoftext|>\n" * 9, 0, "no story"),
    "only white space": ("corpus.txt", b" \n\t\n\r\n" * 9, 0, "no story"),
    "a JSON array in a line": ("corpus.jsonl", b'[{"text": "One."}, {"text": "Two."}]', 1, "one JSON list"),
    "a JSON array over lines": ("corpus.jsonl", b'[\n{"text": "One."},\n{"text": "Two."}\n]', 1, "not JSON"),
    "a JSON object over lines": ("corpus.jsonl", b'{\n "text": "One."\n}\n', 1, "not JSON"),
    "JSON of another kind": ("corpus.jsonl", b"{'text': 'One.'}\n", 1, "not JSON"),
    "a line cut off": ("corpus.jsonl", b'{"text": "One."}\n{"text": "Tw', 2, "not JSON"),
    "a field with another name": ("corpus.jsonl", b'{"text": "One."}\n{"story": "Two."}\n', 2, "--text_column"),
    "no text but null": ("corpus.jsonl", b'{"text": "One."}\n\n{"text": null}\n', 3, "no text in field"),
    "no text but NaN": ("corpus.jsonl", b'{"text": NaN}\n', 1, "no text in field"),
    "half an emoji": ("corpus.jsonl", b'{"text": "One."}\n{"text": "\\ud83e"}\n', 2, "a lone surrogate escape"),
    "a zero byte in JSON": ("corpus.jsonl", b'{"text": "One."}\n{"text": "T\0wo."}\n', 2, "zero byte"),
    "JSON thousands deep": ("corpus.jsonl", b'{"text": "One."}\n' + b"[" * 10**5, 2, "not JSON"),
    "CSV without header": ("corpus.csv", b"1,One.\n2,Two.\n", 1, "no column 'text'"),
    "CSV with semicolons": ("corpus.csv", b"id;story\n1;One.\n", 1, "no column 'text'; the header holds semicolons"),
    "CSV with two such columns": ("corpus.csv", b"text,text\nOne.,Two.\n", 1, "several columns"),
    "a quote that never ends": ("corpus.csv", b'id,text\n1,One.\n2,"Two.\n3,Three.\n', 3, "a quote opens in this row"),
    "a comma too many": ("corpus.csv", b"id,text\n1,One.\n2,Two, three.\n", 3, "3 fields"),
    "an empty CSV": ("corpus.csv", b"", 1, "no column 'text'"),
    "half a Parquet file": ("corpus.parquet", parquet(text=["One.", "Two."])[:-30], 0, "Parquet"),
    "Parquet by name alone": ("corpus.parquet", b"text\nOne.\n", 0, "Parquet"),
    "Parquet of numbers": ("corpus.parquet", parquet(text=[1, 2]), 0, "is int64, not text"),
    "Parquet of lists": ("corpus.parquet", parquet(text=[["One."], ["Two."]]), 0, "is a list, not text"),
    "Parquet with a hole": ("corpus.parquet", parquet(text=["One.", None]), 0, "row 2"),
    "Parquet with other columns": ("corpus.parquet", parquet(story=["One."]), 0, "no column 'text'"),
    "a kind that is not known": ("corpus.docx", b"One.\n\nTwo.", 0, ".jsonl"),
    "a name without ending": ("corpus", b"One.\n\nTwo.", 0, "a file without ending"),
}


@pytest.mark.parametrize(("name", "content", "line", "words"), CORPORA.values(), ids=CORPORA)
def test_corpus(name, content, line, words, tmp_path):
    """The message gives the file and the line."""
    path = tmp_path / name
    path.write_bytes(content)
    message = mistake(load_corpus, DataArguments(train_file=str(path), data_cache_dir=str(tmp_path / "cache")))
    assert message.startswith(f"{path}:{line}: " if line else str(path)) and words in message, message


@pytest.mark.parametrize("text", ["One hen.", "One hen.\n\n" * 50, "The hen went on. " * 10**3])
def test_nothing_to_hold_out(text, tmp_path):
    """The message asks for validation data."""
    path = tmp_path / "corpus.txt"
    path.write_text(text, encoding="utf-8")
    message = mistake(load_corpus, DataArguments(train_file=str(path), data_cache_dir=str(tmp_path / "cache")))
    assert "1 distinct stories" in message and "--validation_file" in message


def test_folders_without_corpus(tmp_path):
    for name in ("empty", "stories.txt", "others"):
        (tmp_path / name).mkdir()
    (tmp_path / "others" / "notes.md").write_text("No story.", encoding="utf-8")
    (tmp_path / "one-bad").mkdir()
    (tmp_path / "one-bad" / "a.txt").write_text("One.\n\nTwo.", encoding="utf-8")
    (tmp_path / "one-bad" / "b.txt").write_bytes(b"One.\n\xff")
    places = {
        "empty": "contains no",
        "stories.txt": "contains no",
        "others": "contains no",
        "missing.txt": "no such file",
    }
    for name, words in (places | {"one-bad": "b.txt:2", "x" * 300 + ".txt": "cannot be read"}).items():
        message = mistake(load_corpus, DataArguments(train_file=str(tmp_path / name)))
        assert message.startswith(str(tmp_path / name)) and words in message, message


def test_unreadable_file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("One.\n\nTwo.", encoding="utf-8")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert mistake(load_corpus, DataArguments(train_file=str(path))).startswith(f"{path}: cannot be read")


# Recipes that are not a YAML mapping: the file and its line

FILES = {
    "nothing": (b"", 0),
    "only a remark": (b"# seed: 1\n", 0),
    "a list": (b"- seed: 1\n- block_size: 64\n", 0),
    "a sentence": (b"train on stories\n", 0),
    "two documents": (b"seed: 1\n---\nseed: 2\n", 2),
    "a tab": (b"seed: 1\n\tblock_size: 64\n", 2),
    "a key indented": (b"seed: 1\n  block_size: 64\n", 2),
    "a bracket left open": (b"seed: 1\nsample_prompts: [a, b\nblock_size: 64\n", 3),
    "a quote left open": (b"seed: 1\noutput_dir: 'runs\n", 3),
    "a key given twice": (b"seed: 1\nblock_size: 64\nseed: 2\n", 3),
    "a colon in a value": (b"seed: 1\noutput_dir: a: b\n", 2),
    "an alias of nothing": (b"seed: 1\noutput_dir: *here\n", 2),
    "a Python object": (b"seed: 1\noutput_dir: !!python/object/apply:os.getcwd []\n", 2),
    "a day that does not exist": (b"seed: 1\noutput_dir: 2024-02-31\n", 2),
    "a control character": (b"seed: 1\noutput_dir: a\x07b\n", 2),
    "Latin-1": ("seed: 1\noutput_dir: Zoë\n".encode("latin-1"), 2),
    "UTF-16": ("seed: 1\noutput_dir: a\n".encode("utf-16"), 1),
    "brackets thousands deep": (b"seed: " + b"[" * 10**4, 0),
}


@pytest.mark.parametrize(("content", "line"), FILES.values(), ids=FILES)
def test_recipe_not_a_mapping(content, line, tmp_path):
    """The message gives the file and the line."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    message = mistake(read_recipe, [str(path)])
    assert message.startswith(f"{path}:{line}: " if line else f"{path} must contain 'key: value' lines"), message


def test_missing_recipe(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / ("x" * 300 + ".yaml")):
        assert str(path) in mistake(read_recipe, [str(path)])


# Recipes with a wrong value: the key

NAN, INFINITE = float("nan"), float("inf")
VALUES = {
    "learning_rat": [1e-3],
    "learning_rate": ["fast", -1, NAN, INFINITE],
    "per_device_train_batch_size": [0, -8, 2.5],
    "per_device_eval_batch_size": [0],
    "gradient_accumulation_steps": [0],
    "num_train_epochs": [0, -1, NAN],
    "max_steps": [0, -5, 1.5],
    "warmup_steps": [-1],
    "eval_steps": [0, -10],
    "save_steps": [0, 30],  # not a multiple of eval_steps, with load_best_model_at_end
    "eval_strategy": ["sometimes"],
    "logging_steps": [0],
    "save_total_limit": [0, -1],
    "metric_for_best_model": ["beauty"],
    "optim": ["adamm"],
    "optim_args": ["fast"],
    "lr_scheduler_type": ["cosin", "cosine_with_min_lr"],  # the second without the options it needs
    "lr_scheduler_kwargs": ["{min_lr", {"min": 1}],
    "help": [True],
    "weight_decay": [-0.1],
    "adam_beta2": [1, 2, NAN],
    "adam_epsilon": [0],
    "max_grad_norm": [-1],
    "seed": [-1, 2**32],
    "dataloader_num_workers": [-1],
    "label_smoothing_factor": [1],
    "hidden_size": [0, -64, 66.5, 65],  # 65 is not a multiple of the heads
    "num_hidden_layers": [0],
    "num_attention_heads": [0, 3],
    "num_key_value_heads": [0, 3],
    "partial_rotary_factor": [0, 1.5, 0.1],  # a tenth of 32 is not an even number
    "rope_theta": [-1],
    "rms_norm_eps": [-1e-6],
    "initializer_range": [-0.02],
    "resid_pdrop": [1, -0.1],
    "attn_implementation": ["fast", "flex_attention"],
    "vocab_size": [100, -1],
    "min_frequency": [0],
    "max_samples": [0],
    "block_size": [1, -64, 10**6],
    "num_sample_stories": [100],  # a second source
    "train_file": ["missing.txt", ["a.txt", "b.txt"]],
    "validation_file": ["missing.txt"],
    "validation_fraction": [0, 1, NAN],
    "max_train_samples": [0],
    "max_eval_samples": [0],
    "story_separator": ["page"],
    "on_bad_row": ["ignore"],
    "tokenizer_name": ["no/such/tokenizer"],
    "model_name_or_path": ["no/such/model"],
    "fp16": [True],  # and bf16
    "report_to": ["nothing"],
    "hub_strategy": ["sometimes"],
    "hub_model_id": ["too/many/parts"],
    "resume_from_checkpoint": ["true"],
    "output_dir": ["counting.txt"],
}
EXTRA = {"fp16": {"bf16": True}, "hub_model_id": {"push_to_hub": True}, "attn_implementation": {"use_cpu": True}}
SAID_OTHERWISE = {  # in the words of what refuses it
    "train_file": "no such file",
    "validation_file": "no such file",
    "num_sample_stories": "one source",
    "save_steps": "sav",
    "partial_rotary_factor": "rotary",
    "hub_model_id": "too/many/parts",
    "tokenizer_name": "no/such/tokenizer",
    "report_to": "nothing",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The keys of a recipe that would run, and the folder that it reads from."""
    folder = tmp_path_factory.mktemp("malformed")
    keys = TINY | {"train_file": str(write_counting_corpus(folder)), "data_cache_dir": str(folder / "cache")}
    return folder, keys | {"vocab_size": 300, "sample_prompts": []}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values], ids=str
)
def test_wrong_value(key, value, sound, tmp_path, monkeypatch):
    """The message names the key, and no run folder is made."""
    folder, keys = sound
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = folder / "recipe.yaml"
    keys = keys | {"output_dir": str(tmp_path / "run")}
    text = json.dumps(keys | EXTRA.get(key, {}) | {key: value}).replace("NaN", ".nan").replace("Infinity", ".inf")
    recipe.write_text(text, encoding="utf-8")
    message = mistake(train.main, [str(recipe)])
    assert key in message or SAID_OTHERWISE.get(key, key) in message, message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mapping", ["{min_lr: 2024-01-01}", "&a {min_lr: *a}", "{a: !!set {b}}", "{2024-01-01: 1}"])
def test_mapping_not_json(mapping, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"lr_scheduler_kwargs: {mapping}\n", encoding="utf-8")
    assert "lr_scheduler_kwargs" in mistake(read_recipe, [str(tmp_path / "recipe.yaml")])


@pytest.mark.slow
def test_incomplete_checkpoint(tmp_path):
    """The message names the missing file."""
    files = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    for missing in ("config.json", "tokenizer.json"):
        (tmp_path / missing).mkdir()
        for name in files:
            if not name.startswith(missing.removesuffix(".json")):
                shutil.copy(BOXED / name, tmp_path / missing)
        assert mistake(load_checkpoint, str(tmp_path / missing)).endswith(f"it has no {missing}")
    (tmp_path / "empty").mkdir()
    assert "config.json and no tokenizer.json" in mistake(load_checkpoint, str(tmp_path / "empty"))


@pytest.mark.slow
def test_config_json_is_not_a_recipe():
    for name in ("config.json", "generation_config.json"):
        assert f"give the folder, {BOXED}" in mistake(check.main, [str(BOXED / name)])


def test_options_of_check(tmp_path):
    """Options and output file are checked before any work."""
    assert "did you mean stories?" in mistake(check.main, ["some/model", "--storys", "5"])
    source = str(write_counting_corpus(tmp_path))
    for way in (["some/model"], ["recipe.yaml"], ["--data", source]):
        assert "is a folder" in mistake(check.main, [*way, "--output_file", str(tmp_path)])
        missing = str(tmp_path / "missing" / "out.json")
        assert "there is no folder" in mistake(check.main, [*way, "--output_file", missing])


def test_output_file_not_writable(tmp_path):
    out = tmp_path / "out.json"
    out.write_text("{}", encoding="utf-8")
    out.chmod(0o400)
    if os.access(out, os.W_OK):
        pytest.skip("this user may write everything")
    assert "may not be written" in mistake(check.main, ["some/model", "--output_file", str(out)])


def test_result_not_written(tmp_path):
    assert "cannot be written" in mistake(write_output_file, str(tmp_path), {})


def test_cache_without_seal(tmp_path, caplog):
    """A cache of an earlier version is made again, and is not called damaged."""
    caplog.set_level("INFO", logger="tinystories")
    (tmp_path / "rows-1").mkdir()
    folder = cached_folder("rows", "1", lambda folder: (folder / "new").touch(), str(tmp_path))
    assert (folder / "new").exists() and "damaged" not in caplog.text
    assert [record.levelname for record in caplog.records] == ["INFO"] and "earlier version" in caplog.text


# As a user meets them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run_clm.py", "recipe.yaml"], "recipe.yaml:3: not valid YAML: key 'seed' is given twice"),
        (["train_tokenizer.py", "--train_file", "corpus.jsonl"], "corpus.jsonl:2: not JSON"),
    ],
)
def test_commands(command, words, tmp_path):
    """As a user meets a mistake: one line and exit status 1."""
    (tmp_path / "recipe.yaml").write_bytes(FILES["a key given twice"][0])
    (tmp_path / "corpus.jsonl").write_bytes(CORPORA["a line cut off"][1])
    process = run_command(*command, *as_options({"data_cache_dir": tmp_path / "cache"}), cwd=tmp_path)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: ") and words in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
