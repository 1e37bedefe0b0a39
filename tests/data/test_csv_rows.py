"""CSV: a stray quote swallows no row, every row is used or counted, and the delimiter is found or named."""

import pytest

from helpers.runs import mistake
from tinystories.config.keys import DataArguments
from tinystories.data.corpus import load_corpus, read_files
from tinystories.training.guards.sources import check_sources


ROWS = [f"{i},Story {i}. The mole dug {i + 2} holes." for i in range(60)]


@pytest.fixture
def read(tmp_path):
    """Write a CSV file, read it; its stories and the report."""

    def read(lines: list[str], name="stories.csv", **options) -> tuple[list[str], dict]:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = DataArguments(data_cache_dir=str(tmp_path / "cache"), **options)
        stories, report = read_files(str(path), arguments)
        return list(stories["text"]), report

    return read


def with_quotes(*places: tuple[int, str]) -> list[str]:
    rows = list(ROWS)
    for row, where in places:
        number, text = rows[row].split(",")
        rows[row] = f'{number},"{text}' if where == "begin" else f'{number},{text}"'
    return ["id,text", *rows]


@pytest.mark.parametrize("row", [0, 1, 30, 58, 59])
def test_open_quote(read, row):
    """Only the row where it opens is lost; it is named, and not the last line of the file."""
    message = mistake(read, with_quotes((row, "begin")))
    assert f"stories.csv:{row + 2}: a quote opens in this row" in message
    stories, report = read(with_quotes((row, "begin")), on_bad_row="skip")
    assert stories == [text.split(",")[1] for i, text in enumerate(ROWS) if i != row]
    assert report["bad"] == 1 and f":{row + 2}:" in report["first_bad"]


@pytest.mark.parametrize(("first", "last"), [(0, 59), (3, 52), (3, 5), (3, 4)])
def test_two_stray_quotes(read, first, last):
    """They make one story of many rows that is valid CSV."""
    lines = with_quotes((first, "begin"), (last, "end"))
    assert f":{first + 2}: a quote opens in this row and closes {last - first} lines later" in mistake(read, lines)
    stories, report = read(lines, on_bad_row="skip")
    assert report["bad"] == 1 and len(stories) == len(ROWS) - 1
    assert stories[first:][:1] == [ROWS[first + 1].split(",")[1] + ('"' if last == first + 1 else "")]


def test_stray_quotes_beside_text_first(read):
    lines = ["text,id", *(f"Story {i} of a mole.,{i}" for i in range(20))]
    lines[4], lines[9] = '"' + lines[4], lines[9].replace(".,", '.",')
    assert ":5: a quote opens in this row and closes 5 lines later" in mistake(read, lines)


def test_several_open_quotes(read):
    stories, report = read(with_quotes((3, "begin"), (20, "begin"), (40, "begin")), on_bad_row="skip")
    assert (len(stories), report["bad"]) == (57, 3)


LONG = {
    "paragraphs": "One day, it rained.\n\nThe mole, who was wet, ran home.\n\nThe end, dear.",
    "lines with one comma": "\n".join(f"Then, the mole dug hole {i}." for i in range(3)),
    "a list of numbers": "She counted:\n1\n2\n3\nand laughed.",
    "a poem": "\n".join(f"The moon is bright, the night is {word}," for word in ("long", "cold", "old")),
    "many lines": "\n".join(f"Line {i} of a long story" for i in range(500)),
    "quotes": 'He said, ""Hi,""\nand ""Oh, no.""',
}


@pytest.mark.parametrize("name", LONG)
def test_fields_of_several_lines(read, tmp_path, name):
    """Line breaks in a quoted field are text."""
    lines = ["id,text", f'1,"{LONG[name]}"', "2,Short.", f'3,"{LONG[name]}"']
    story = LONG[name].replace('""', '"')
    assert read(lines)[0] == [story, "Short.", story]
    data = DataArguments(train_file=str(tmp_path / "stories.csv"), data_cache_dir=str(tmp_path / "cache"))
    check_sources(load_corpus(data), data)


def test_cut_file(read):
    """The paragraphs of a last story whose quote is cut off are no rows."""
    lines = ["id,text", '1,"One.\nTwo, three."', '2,"One day, it rained.', "Then, it was over.", "The end, dear."]
    stories, report = read(lines, on_bad_row="skip")
    assert stories == ["One.\nTwo, three."]
    assert report["bad"] == 1 and ":4:" in report["first_bad"]


def test_wrong_number_of_fields_over_several_lines(read):
    """The row is named by its first line, and reading goes on after it."""
    lines = ["id,text", '1,"One\nday, it rained.",more', "2,Two."]
    stories, report = read(lines, on_bad_row="skip")
    assert stories == ["Two."]
    assert report["bad"] == 1 and ":2: 3 fields" in report["first_bad"]


@pytest.mark.parametrize(("delimiter", "words"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_delimiters(read, tmp_path, delimiter, words):
    """The delimiter is found by the header, said, and the second reader finds it too."""
    lines = [
        f"id{delimiter}text",
        f"1{delimiter}A mole, a hen.",
        f'2{delimiter}"A{delimiter}B"',
        f"3{delimiter}The end.",
    ]
    stories, report = read(lines)
    assert stories == ["A mole, a hen.", f"A{delimiter}B", "The end."]
    assert report["delimiters"] == [words]
    data = DataArguments(train_file=str(tmp_path / "stories.csv"), data_cache_dir=str(tmp_path / "cache"))
    check_sources(load_corpus(data), data)


def test_tsv(read):
    stories, report = read(["id\ttext", "1\tA mole, a hen."], name="stories.tsv")
    assert stories == ["A mole, a hen."] and report["delimiters"] == []
    assert read(["id,text", "1,A mole."], name="other.tsv")[0] == ["A mole."]


@pytest.mark.parametrize("column", ["story", "id;text", "id"])
def test_wrong_column_and_delimiter(read, column):
    """The error names the columns that there are, never the one that was given."""
    lines = ["id;text", "1;A mole."]
    if column == "id":
        assert read(lines, text_column=column)[0] == ["1"]
        return
    message = mistake(read, lines, text_column=column)
    assert "holds semicolons and no commas" in message and "['id', 'text']" in message
