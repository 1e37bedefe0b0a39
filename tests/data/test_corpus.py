"""The corpus: the same stories from files of any format, no row lost silently, and a hold-out without copies."""

import csv
import io
import json
import logging
import os
import random

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.runs import mistake
from tinystories.config.keys import DataArguments
from tinystories.config.recipe import read_recipe
from tinystories.data import corpus
from tinystories.data.corpus import load_corpus, pick_stories, read_files


MARK = "<|endoftext|>"
STORIES = [
    'The hen said, "Who took my corn?"\nNobody knew.',
    "A goat, a cat and a kite.\n\nThey flew.",
    "Zoë found a 🦊 under the tree.",
    "It rained; the duck was glad.",
    "'Come', said the owl. The end.",
    "Ten snails ran a race. It took a week.",
]
FORMATS = {
    ".txt": lambda stories: f"\n{MARK}\n".join(stories).encode(),
    ".jsonl": lambda stories: "".join(json.dumps({"id": 1, "text": story}) + "\n" for story in stories).encode(),
    ".csv": lambda stories: as_csv([["id", "text"], *([1, story] for story in stories)]),
    ".parquet": lambda stories: as_parquet({"id": list(range(len(stories))), "text": stories}),
}


def as_csv(rows) -> bytes:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode()


def as_parquet(columns) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def write(tmp_path):
    """Write a file below tmp_path, give its path."""

    def write(name: str, content: str | bytes):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def data(tmp_path):
    """DataArguments whose cache is in tmp_path."""

    def data(**arguments) -> DataArguments:
        paths = {key: str(value) for key, value in arguments.items() if key.endswith("_file")}
        return DataArguments(**({"data_cache_dir": str(tmp_path / "cache")} | arguments | paths))

    return data


@pytest.fixture
def read(data):
    """Read a file or folder; the list of its stories and the report."""

    def read(path, **arguments) -> tuple[list[str], dict]:
        stories, report = read_files(str(path), data(**arguments))
        assert stories.column_names == ["text"]
        return list(stories["text"]), report

    return read


@pytest.fixture
def numbered(write):
    """A text file of that many distinct stories."""
    return lambda number, name="numbered.txt": write(name, "\n\n".join(f"Cat number {i} slept." for i in range(number)))


def texts(dataset: datasets.Dataset) -> list[str]:
    return list(dataset["text"])


# One corpus, many kinds of files


@pytest.mark.parametrize("suffix", [*FORMATS, ".TXT"])
def test_formats_give_the_same_stories(write, read, suffix):
    stories, report = read(write(f"stories{suffix}", FORMATS[suffix.lower()](STORIES)))
    assert stories == STORIES
    assert (report["stories"], report["empty"], report["bad"]) == (len(STORIES), 0, 0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_give_the_same_hold_out(write, data, suffix):
    reference = load_corpus(data(train_file=write("reference.txt", FORMATS[".txt"](STORIES)), validation_fraction=0.3))
    path = write(f"stories{suffix}", FORMATS[suffix](STORIES))
    corpus = load_corpus(data(train_file=path, validation_fraction=0.3))
    assert texts(corpus.validation) == texts(reference.validation)
    assert texts(corpus.train) == texts(reference.train)


def test_folder(write, read, tmp_path, caplog):
    """All its files are read, in the order of their paths; files of other formats are named in a warning."""
    caplog.set_level(logging.WARNING)
    for name, part in (("d.txt", STORIES[4:]), ("a.txt", STORIES[:1]), ("b.parquet", STORIES[1:2])):
        write(f"all/{name}", FORMATS["." + name.split(".")[1]](part))
    write("all/c/x.jsonl", FORMATS[".jsonl"](STORIES[2:3]))
    write("all/c/y.csv", FORMATS[".csv"](STORIES[3:4]))
    write("all/.hidden.txt", "A hidden story.")
    write("all/notes.md", "No story.")
    assert read(tmp_path / "all")[0] == STORIES
    assert "notes.md" in caplog.text  # left out, and said so


def test_separator_of_each_file(write, read, tmp_path):
    """It is found for each file of a folder on its own."""
    write("all/a.txt", f"One.\n\nStill one.{MARK}Two.")
    write("all/b.txt", "Three.\n\nFour.")
    stories, report = read(tmp_path / "all")
    assert stories == ["One.\n\nStill one.", "Two.", "Three.", "Four."]
    assert report["separators"] == [MARK, "blank lines"]


SEPARATED = {
    "marker on its own line": (f"One.\n{MARK}\nTwo.\n{MARK}\n", "auto", ["One.", "Two."]),
    "marker between two stories of a line": (f"One.{MARK}Two.{MARK}{MARK}Three.", "auto", ["One.", "Two.", "Three."]),
    "marker before the first story": (f"{MARK}\nOne.\n{MARK}\nTwo.", "auto", ["One.", "Two."]),
    "marker and blank lines": (f"One.\n\nStill one.\n{MARK}\n\nTwo.", "auto", ["One.\n\nStill one.", "Two."]),
    "no marker after the last story": (f"One.\n{MARK}\nTwo.\nThe end.", "auto", ["One.", "Two.\nThe end."]),
    "blank lines": ("One.\nStill one.\n\n\n\nTwo.\n", "auto", ["One.\nStill one.", "Two."]),
    "lines of white space": ("One.\n \t\nTwo.", "auto", ["One.", "Two."]),
    "blank lines at both ends": ("\n\nOne.\n\nTwo.\n\n\n", "auto", ["One.", "Two."]),
    "Windows line ends": ("One.\r\nStill one.\r\n\r\nTwo.\r\n", "auto", ["One.\nStill one.", "Two."]),
    "Windows line ends and marker": (f"One.\r\n{MARK}\r\nTwo.\r\n", "auto", ["One.", "Two."]),
    "byte order mark": ("\ufeffOne.\n\nTwo.", "auto", ["One.", "Two."]),
    "byte order mark inside": ("One.\n\n\ufeffTwo.", "auto", ["One.", "\ufeffTwo."]),
    "no line end at all": ("One.", "auto", ["One."]),
    "whole file asked for": ("One.\n\nStill one.\n", "file", ["One.\n\nStill one."]),
    "whole file asked for in spite of markers": (f"One.{MARK}Two.", "file", [f"One.{MARK}Two."]),
    "blank lines asked for in spite of markers": (f"One.{MARK}\n\nTwo.", "blank_line", [f"One.{MARK}", "Two."]),
    "marker asked for and absent": ("One.\n\nStill one.", "endoftext", ["One.\n\nStill one."]),
    "a line separator of Unicode": ("One.\u2028And.\x0bAnd.\x85And.", "auto", ["One.\u2028And.\x0bAnd.\x85And."]),
}


@pytest.mark.parametrize(("content", "separator", "expected"), SEPARATED.values(), ids=SEPARATED)
def test_separators(write, read, content, separator, expected):
    """Text is cut where stories end and nowhere else."""
    stories, report = read(write("stories.txt", content), story_separator=separator)
    assert stories == expected
    assert report["stories"] == len(expected)
    assert len(report["separators"]) == 1


def test_separator_is_part_of_the_key(write, read):
    path = write("stories.txt", f"One.\n\nTwo.{MARK}Three.")
    assert [len(read(path, story_separator=rule)[0]) for rule in ("auto", "blank_line", "file", "auto")] == [2, 2, 1, 2]
    assert read(path, story_separator="blank_line")[0] != read(path)[0]


def test_marker_in_jsonl_is_text(write, read):
    story = f"The sign said {MARK} and nobody\n\nknew why."
    assert read(write("stories.jsonl", json.dumps({"text": story})))[0] == [story]


def test_jsonl_variants(write, read):
    """JSON strings without an object, blank lines and a byte order mark are read."""
    assert read(write("stories.jsonl", '\ufeff"One."\r\n\r\n{"text": "Two."}\n\n'))[0] == ["One.", "Two."]


def test_quoted_csv(write, read):
    """Quoted line breaks, commas and quotes are text."""
    content = '\ufefftext,id\r\n"One,\r\nthe ""first"".\n\nStill one.",1\r\n\r\nTwo.,2'
    assert read(write("stories.csv", content))[0] == ['One,\nthe "first".\n\nStill one.', "Two."]


def test_long_csv_field(write, read):
    story = "The worm was long. " * 20_000
    assert read(write("stories.csv", as_csv([["text"], [story]])))[0] == [story.strip()]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_text_column(write, read, suffix):
    content = {
        ".jsonl": b'{"text": "no", "story": "yes"}',
        ".csv": b"text,story\nno,yes\n",
        ".parquet": as_parquet({"text": ["no"], "story": ["yes"]}),
    }[suffix]
    path = write(f"stories{suffix}", content)
    assert read(path)[0] == ["no"]
    assert read(path, text_column="story")[0] == ["yes"]


def test_white_space_and_empty_stories(write, read):
    """White space around a story is removed, and empty stories are counted."""
    path = write("stories.jsonl", "\n".join(json.dumps({"text": text}) for text in ("  One. \n", "", " \t\n", "Two.")))
    stories, report = read(path)
    assert stories == ["One.", "Two."]
    assert (report["stories"], report["empty"]) == (2, 2)
    assert read(path)[1] == report


def test_several_batches_keep_order(write, read):
    stories = [f"Story {i}." for i in range(2345)]
    assert read(write("stories.txt", "\n\n".join(stories)))[0] == stories


# What cannot be read


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_not_utf8(write, read, suffix):
    """The error names the line."""
    lines = {
        ".txt": ["Zoë.", "", "Caf\udce9."],
        ".jsonl": ['{"text": "Zoë."}', "", '{"text": "Caf\udce9."}'],
        ".csv": ["text", "Zoë.", "Caf\udce9."],
    }[suffix]
    path = write(f"stories{suffix}", "\n".join(lines).encode("utf-8", errors="surrogateescape"))
    message = mistake(read, path)
    assert message.startswith(f"{path}:3: not UTF-8") and "0xe9" in message
    mistake(read, path, story_separator="file")


BAD_ROWS = {
    "cut JSON": ("bad.jsonl", '"One."\n{"text": "Tw\n"Three."\n', 2),
    "JSON list": ("bad.jsonl", '"One."\n["Two."]\n"Three."\n', 2),
    "JSON null": ("bad.jsonl", '"One."\n{"text": null}\n"Three."\n', 2),
    "JSON number": ("bad.jsonl", '"One."\n{"text": 2}\n"Three."\n', 2),
    "JSON without the field": ("bad.jsonl", '"One."\n{"story": "Two."}\n"Three."\n', 2),
    "half an emoji in JSON": ("bad.jsonl", '"One."\n{"text": "Two \\ud83d."}\n"Three."\n', 2),
    "a number too long for JSON": ("bad.jsonl", '"One."\n{"text": "Two.", "n": ' + "1" * 5000 + '}\n"Three."\n', 2),
    "JSON nested too deeply": ("bad.jsonl", '"One."\n' + "[" * 100_000 + '\n"Three."\n', 2),
    "too few fields": ("bad.csv", "text,id\nOne.,1\nTwo.\nThree.,3\n", 3),
    "too many fields": ("bad.csv", "text,id\nOne.,1\nTwo., then,2\nThree.,3\n", 3),
    "a quote that does not end": ("bad.csv", 'text,id\nOne.,1\nThree.,3\n"Two.,2\n', 4),
    "a quote in the middle": ("bad.csv", 'text,id\nOne.,1\n"Two".,2\nThree.,3\n', 3),
    "JSON list of messages": ("bad.jsonl", '"One."\n{"text": [{"role": "user"}]}\n"Three."\n', 2),
    "the field twice": ("bad.jsonl", '"One."\n{"text": "Two.", "text": "2"}\n"Three."\n', 2),
    "null in Parquet": ("bad.parquet", as_parquet({"text": ["One.", None, "Three."]}), None),
}


@pytest.mark.parametrize(("name", "content", "line"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row(write, read, caplog, name, content, line):
    """It stops with its file and line, and can be skipped; also when the stories come from the cache."""
    path = write(name, content)
    place = f"{path}:{line}:" if line else f"{path}: row 2:"
    message = mistake(read, path)
    assert message.startswith(place) and "on_bad_row skip" in message
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        stories, report = read(path, on_bad_row="skip")
        assert stories == ["One.", "Three."]
        assert (report["stories"], report["bad"]) == (2, 1)
        assert report["first_bad"].startswith(place)
        assert "skipped 1 row" in caplog.text and place in caplog.text


def test_bad_rows_are_counted(write, read):
    _, report = read(write("bad.jsonl", '"One."\n1\n2\n3\n'), on_bad_row="skip")
    assert report["bad"] == 3
    assert ":2:" in report["first_bad"]


def test_bad_row_of_a_copied_file(write, read):
    """Another file with the same content comes from the same cache."""
    content = '"One."\n1\n'
    read(write("first.jsonl", content), on_bad_row="skip")
    assert "second.jsonl:2:" in read(write("second.jsonl", content), on_bad_row="skip")[1]["first_bad"]


def test_skipping_is_part_of_the_key(write, read):
    path = write("bad.jsonl", '"One."\n1\n')
    read(path, on_bad_row="skip")
    assert f"{path}:2:" in mistake(read, path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_wrong_column(write, read, suffix):
    """The error names the columns that there are."""
    path = write(f"stories{suffix}", FORMATS[suffix](STORIES))
    message = mistake(read, path, text_column="story")
    assert str(path) in message and "'story'" in message and "'text'" in message and "'id'" in message
    assert "text_column" in message


def test_all_rows_bad(write, read):
    """Guards: an error that calls such a file empty."""
    path = write("stories.jsonl", '{"story": "One."}\n{"story": "Two."}\n')
    message = mistake(read, path, on_bad_row="skip")
    assert "empty" not in message
    assert f"{path}:1:" in message


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n\r\n  "], ids=["empty", "line end", "white space"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_file_without_story(write, read, suffix, content):
    path = write(f"stories{suffix}", content)
    assert str(path) in mistake(read, path)


@pytest.mark.parametrize("content", [b"text\n", b'text,id\n"",1\n'])
def test_csv_without_story(write, read, content):
    assert "no story" in mistake(read, write("stories.csv", content))


def test_broken_csv_header(write, read):
    path = write("stories.csv", '"te"xt,id\nOne.,1\n')
    assert mistake(read, path).startswith(f"{path}:1:")


CHATS = {
    "messages": (
        {"messages": [{"role": "user", "content": "hi"}]},
        "no text in field 'messages', it is a list, not text",
    ),
    "text": ({"conversations": [{"from": "human", "value": "hi"}]}, "it has ['conversations']; none of them is text"),
}


@pytest.mark.parametrize("column", CHATS)
def test_chats(write, read, column):
    """The advice is not to name the field that was named, or another that is no text."""
    row, expected = CHATS[column]
    message = mistake(read, write("chat.jsonl", json.dumps(row) + "\n"), text_column=column)
    assert expected in message and "chats must be written out as text first" in message and "text_column" not in message


@pytest.mark.parametrize(
    "content",
    ['[{"text": "One."},\n{"text": "Two."}]', "[\n" + '"One."\n]', '{\n"text": "One."\n}', '[{"text": "One."}]'],
    ids=["list", "list over lines", "object over lines", "list in a line"],
)
def test_json_that_is_no_lines(write, read, content):
    """It is said what it is; its rows cannot be counted, so that it is not skipped either."""
    path = write("stories.jsonl", content)
    for rule in ("error", "skip"):
        message = mistake(read, path, on_bad_row=rule)
        assert message.startswith(f"{path}:1: not JSON lines but one JSON ") and "a line of its own" in message


COLUMNS = {
    "large strings": (pa.array(["One.", "Two."], pa.large_string()), None),
    "dictionary": (pa.array(["One.", "Two."]).dictionary_encode(), None),
    "list": (pa.array([["One."], ["Two."]]), "is a list, not text"),
    "messages": (pa.array([[{"role": "user"}], []]), "is a list, not text; chats must be written out"),
    "struct": (pa.array([{"a": "One."}, {"a": "Two."}]), "is struct<a: string>, not text"),
    "numbers": (pa.array([1, 2]), "is int64, not text"),
    "bytes": (pa.array([b"One.", b"Two."]), "is binary, not text"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_column_types(write, read, name):
    """Text of any type is read; what is no text is refused once, and not row by row."""
    column, expected = COLUMNS[name]
    path = write("stories.parquet", as_parquet({"text": column}))
    if expected is None:
        assert read(path)[0] == ["One.", "Two."]
    else:
        assert f"column 'text' {expected}" in mistake(read, path, on_bad_row="skip")


def test_columns_of_text_are_named(write, read):
    path = write("stories.parquet", as_parquet({"text": [1], "story": ["One."]}))
    assert "['story'] are; choose one with --text_column" in mistake(read, path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16(write, read, suffix, encoding):
    """It is called what it is."""
    text = "text\n\nOne.\n"
    path = write(
        f"stories{suffix}",
        ("" if encoding in ("utf-16", "utf-32") else "\ufeff").encode(encoding) + text.encode(encoding),
    )
    assert f"{path}:1: is UTF-16" in mistake(read, path)


def test_place_of_a_wrong_byte(write, read):
    """With line ends of each kind, far into a file, and at its last byte."""
    assert ":4: not UTF-8 (byte 0xe9 at column 4)" in mistake(read, write("a.txt", b"One\rTwo\r\nThree\nCaf\xe9 x"))
    text = ("Zo\u00eb. " * 200_000 + "\r\n").encode() * 3
    assert ":4: not UTF-8 (byte 0xc3 at column 3)" in mistake(read, write("b.txt", text + b"Zo\xc3"))


def test_changed_while_read(write, data, monkeypatch):
    """What was read then is not kept as the content that was there before."""
    path = write("stories.txt", "One.\n\nTwo.")

    def append(*arguments, **options):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\nThree.")
        return unchanged(*arguments, **options)

    unchanged = corpus.progress_bar
    monkeypatch.setattr(corpus, "progress_bar", append)  # the bar of the reading: it runs between digest and text
    assert "was changed while it was read" in mistake(read_files, str(path), data())
    monkeypatch.undo()
    assert texts(read_files(str(path), data())[0]) == ["One.", "Two.", "Three."]


def damaged_parquet() -> bytes:
    content = bytearray(as_parquet({"text": STORIES}))
    content[4:40] = b"\xff" * 36  # the head of the first page; the directory at the end is whole
    return bytes(content)


def parquet_with_invalid_text() -> bytes:
    return as_parquet({"text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"Caf\xe9"]).buffers())})


@pytest.mark.parametrize(
    "content", [b"no parquet", damaged_parquet(), parquet_with_invalid_text()], ids=["other", "damaged", "not UTF-8"]
)
def test_broken_parquet(write, read, content):
    path = write("stories.parquet", content)
    assert str(path) in mistake(read, path)


def test_wrong_paths(write, read, tmp_path):
    assert str(tmp_path / "missing.txt") in mistake(read, tmp_path / "missing.txt")
    message = mistake(read, write("stories.docx", "One."))
    assert "stories.docx" in message and ".docx" in message and ".jsonl" in message
    assert "STORIES" in mistake(read, write("STORIES", "One."))
    (tmp_path / "nothing").mkdir()
    assert str(tmp_path / "nothing") in mistake(read, tmp_path / "nothing")
    write("others/notes.md", "No story.")
    assert str(tmp_path / "others") in mistake(read, tmp_path / "others")


def test_cache_folder_is_a_file(write, read):
    path = write("stories.txt", "One.")
    message = mistake(read, path, data_cache_dir=str(write("cache-file", "")))
    assert "cache-file" in message


# The cache


def test_changed_content(write, read):
    """It is read again though name, size and time stay."""
    path = write("stories.txt", "The red hen.")
    before = path.stat()
    assert read(path)[0] == ["The red hen."]
    path.write_bytes(b"The old hen.")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read(path)[0] == ["The old hen."]


def test_changed_suffix(write, read):
    content = '{"text": "One."}'
    assert read(write("stories.jsonl", content))[0] == ["One."]
    assert read(write("stories.txt", content))[0] == [content]


def test_refused_file_is_not_cached(write, read, tmp_path):
    mistake(read, write("bad.jsonl", '"One."\n1\n'))
    assert list((tmp_path / "cache").iterdir()) == []


# Sources


def test_one_source(write, data):
    """Exactly one source must be given."""
    path = write("stories.txt", "One.\n\nTwo.")
    message = mistake(load_corpus, data())
    assert "none" in message and "--train_file" in message
    message = mistake(load_corpus, data(train_file=path, num_sample_stories=5))
    assert "train_file" in message and "num_sample_stories" in message
    mistake(load_corpus, data(dataset_name="someone/stories", num_sample_stories=5))
    mistake(load_corpus, data(validation_file=path, num_sample_stories=5))
    mistake(load_corpus, data(validation_file=path))


def test_validation_file(write, data):
    """It is used whole, and no training story is held out."""
    train, validation = write("train.txt", "One.\n\nTwo."), write("validation.txt", "Three.\n\nOne.")
    corpus = load_corpus(data(train_file=train, validation_file=validation))
    assert texts(corpus.train) == ["One.", "Two."]
    assert texts(corpus.validation) == ["Three.", "One."]
    assert corpus.report["train"]["source"] == str(train)
    assert corpus.report["validation"]["source"] == str(validation)


def test_sample_corpus(data, tmp_path):
    first = load_corpus(data(num_sample_stories=20))
    again = load_corpus(data(num_sample_stories=20, data_cache_dir=str(tmp_path / "other")))
    assert texts(first.train) == texts(again.train)
    assert len(first.train) + len(first.validation) == len({*texts(first.train), *texts(first.validation)}) == 20
    more = load_corpus(data(num_sample_stories=25))
    assert set(texts(first.train)) <= {*texts(more.train), *texts(more.validation)}
    mistake(load_corpus, data(num_sample_stories=0))


@pytest.fixture
def hub_dataset(write, tmp_path, monkeypatch):
    """A dataset as the Hub serves it, in a folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    write("hub/data/train-00000-of-00001.parquet", as_parquet({"text": STORIES[:4], "id": [1, 2, 3, 4]}))
    write("hub/data/validation-00000-of-00001.parquet", as_parquet({"text": [*STORIES[4:], None], "id": [5, 6, 7]}))
    return str(tmp_path / "hub")


def test_hub_dataset(hub_dataset, data):
    corpus = load_corpus(data(dataset_name=hub_dataset, on_bad_row="skip"))
    assert texts(corpus.train) == STORIES[:4]
    assert texts(corpus.validation) == STORIES[4:]
    assert corpus.report["validation"]["bad"] == 1
    corpus = load_corpus(data(dataset_name=hub_dataset, train_split_name="validation", on_bad_row="skip"))
    assert texts(corpus.train) == texts(corpus.validation) == STORIES[4:]


def test_wrong_split_or_column(hub_dataset, data):
    """The error names the splits or columns that there are."""
    message = mistake(load_corpus, data(dataset_name=hub_dataset, train_split_name="training"))
    assert "'training'" in message and "'train'" in message
    message = mistake(load_corpus, data(dataset_name=hub_dataset, text_column="story"))
    assert "'story'" in message and "'text'" in message and "'id'" in message
    assert "on_bad_row" in mistake(load_corpus, data(dataset_name=hub_dataset))


def test_hub_column_that_is_a_list(write, data, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    write("hub/data/train-00000-of-00001.parquet", as_parquet({"messages": [[{"role": "user"}]], "n": [1]}))
    message = mistake(load_corpus, data(dataset_name=str(tmp_path / "hub"), text_column="messages"))
    assert "column 'messages' is a list, not text; chats must be" in message


# Hold-out


def test_hold_out_is_independent_of_seeds(numbered, data):
    """Neither the training seed nor the state of a random generator changes it."""
    path = numbered(100)
    held_out = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        cache = ["--data_cache_dir", data().data_cache_dir]
        recipe = read_recipe(["--train_file", str(path), "--seed", str(seed), "--data_seed", str(seed), *cache])
        held_out.append(texts(load_corpus(recipe.data).validation))
    assert held_out[0] == held_out[1]


def test_split_seed(numbered, data):
    path = numbered(100)
    held_out = [texts(load_corpus(data(train_file=path, split_seed=seed)).validation) for seed in (0, 1, -1)]
    assert len({tuple(stories) for stories in held_out}) == 3


@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.5, 0.98])
def test_hold_out_size(numbered, data, fraction):
    """No story is lost, and both sides keep the order of the file."""
    corpus = load_corpus(data(train_file=numbered(100), validation_fraction=fraction))
    assert len(corpus.validation) == max(1, round(100 * fraction))
    train, validation = texts(corpus.train), texts(corpus.validation)
    assert sorted(train + validation) == sorted(f"Cat number {i} slept." for i in range(100))
    for side in (train, validation):
        assert side == sorted(side, key=lambda story: int(story.split()[2]))  # the order of the file
    assert (corpus.report["train_stories"], corpus.report["validation_stories"]) == (len(train), len(validation))


def test_hold_out_is_independent_of_order(write, data):
    stories = [f"Cat number {i} slept." for i in range(60)]
    held_out = []
    for name in ("forward", "backward"):
        path = write(f"{name}.txt", "\n\n".join(stories))
        held_out.append(set(texts(load_corpus(data(train_file=path, validation_fraction=0.2)).validation)))
        stories.reverse()
    assert held_out[0] == held_out[1]


def test_copies_are_on_one_side(write, data):
    """Copies that differ in white space only are copies."""
    stories = [f"Cat {i % 20}{' ' * (1 + i // 20)}slept.{chr(10) * (i // 40)} Late." for i in range(60)]
    path = write("stories.jsonl", "\n".join(json.dumps(story) for story in stories))
    corpus = load_corpus(data(train_file=path, validation_fraction=0.3))
    train, validation = ({" ".join(text.split()) for text in texts(side)} for side in (corpus.train, corpus.validation))
    assert not train & validation
    assert len(train | validation) == 20
    assert len(corpus.validation) == 18  # three copies of 30 % of the 20
    assert sorted(texts(corpus.train) + texts(corpus.validation)) == sorted(stories)


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, 5.0, float("nan")])
def test_wrong_fraction(numbered, data, fraction):
    assert "validation_fraction" in mistake(load_corpus, data(train_file=numbered(10), validation_fraction=fraction))


def test_too_few_distinct_stories(write, data):
    message = mistake(load_corpus, data(train_file=write("stories.txt", "One.\n\nOne.\n\nOne.")))
    assert "validation_file" in message


# Overlap and numbers of stories


def test_remove_overlap(write, data):
    sources = {
        "train_file": write("train.txt", "One.\n\nTwo  and\nthree.\n\nFour.\n\nOne."),
        "validation_file": write("validation.txt", "One.\n\nTwo and three.\n\nFive."),
    }
    corpus = load_corpus(data(**sources, remove_overlap=True))
    assert texts(corpus.train) == ["Four."]
    assert len(corpus.validation) == 3
    assert corpus.report["overlap_removed"] == 3
    kept = load_corpus(data(**sources))
    assert len(kept.train) == 4 and "overlap_removed" not in kept.report


def test_no_training_story_left(write, data):
    path = write("stories.txt", "One.\n\nTwo.")
    for argument in ({"remove_overlap": True}, {"max_train_samples": 0}):
        assert "no training stories" in mistake(load_corpus, data(train_file=path, validation_file=path, **argument))


def test_max_train_samples(numbered, data):
    """It takes the first stories and does not change the validation data."""
    everything = load_corpus(data(train_file=numbered(50)))
    some = load_corpus(data(train_file=numbered(50), max_train_samples=7))
    assert texts(some.train) == texts(everything.train)[:7]
    assert texts(some.validation) == texts(everything.validation)
    assert some.report["train_stories"] == 7
    assert len(load_corpus(data(train_file=numbered(50), max_train_samples=1000)).train) == len(everything.train)


def test_pick_stories(numbered, data):
    """The same stories each time, from all over the data."""
    stories, _ = read_files(str(numbered(200)), data())
    picked = texts(pick_stories(stories, 20))
    assert picked == texts(pick_stories(stories, 20))
    places = [texts(stories).index(story) for story in picked]
    assert len(set(places)) == 20 and places == sorted(places)
    assert places[-1] > 100
    assert texts(pick_stories(stories, None)) == texts(pick_stories(stories, 200)) == texts(stories)
