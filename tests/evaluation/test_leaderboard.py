"""The leaderboard: which lines replace others, which data are compared, and that a damaged file is not changed."""

import copy
import json
from xml.etree import ElementTree

import pytest

from helpers.runs import mistake
from tinystories.evaluation.leaderboard import add, data_facts, draw, markdown, new_line, read


STORIES = data_facts("held-out", ["A cat sat.", "A na\u00efve dog ran."])
OTHERS = data_facts("held-out", ["A cat sat.", "A dog ran."])


def estimate(value: float, number: int = 2) -> dict:
    return {"value": value, "low": value * 0.9, "high": value * 1.1, "number": number}


def result(model: str, bits: float, data: dict = STORIES, **metrics: float) -> dict:
    values = {"text_bits_per_byte": bits} | metrics
    return new_line(model, 260_032, data, {name: estimate(value) for name, value in values.items()})


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines() if row.startswith("|")]


def test_data_facts():
    """The hash of the data depends on every story, their order and their ends, not on the name."""
    assert STORIES["stories"] == 2 and STORIES["bytes"] == len("A cat sat.A na\u00efve dog ran.".encode())
    hashes = {data_facts("x", stories)["sha256"] for stories in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], [])}
    assert len(hashes) == 5
    assert data_facts("another name", ["A cat sat.", "A dog ran."])["sha256"] == OTHERS["sha256"]


def test_replace_result(tmp_path):
    """A result replaces only an older one of the same model and data."""
    path = tmp_path / "new folder" / "results.jsonl"
    for line in (result("ours", 0.71), result("peer", 0.9), result("ours", 0.6, OTHERS), result("ours", 0.7)):
        lines = add(path, line)
    assert [(line["model"], line["data"]["sha256"]) for line in lines] == [
        ("ours", STORIES["sha256"]),
        ("peer", STORIES["sha256"]),
        ("ours", OTHERS["sha256"]),
    ]
    assert lines == read(path) and lines[0]["metrics"]["text_bits_per_byte"]["value"] == 0.7
    assert lines[0]["date"] and set(lines[0]["versions"]) >= {"torch", "transformers"}
    assert [file.name for file in path.parent.iterdir()] == ["results.jsonl"]


def test_order_and_data(tmp_path):
    """The best model comes first, and each data set has its own table."""
    lines = [result("worse", 0.91), result("elsewhere", 0.1, OTHERS), result("better", 0.7)]
    tables = markdown(lines).split("held-out: ")[1:]
    assert [[row[0] for row in rows_of(table)[2:]] for table in tables] == [["better", "worse"], ["elsewhere"]]
    assert STORIES["sha256"][:12] in tables[0] and OTHERS["sha256"][:12] in tables[1]
    assert rows_of(tables[0])[2][1:3] == ["260,032", "0.7 [0.63, 0.77]"]


def test_columns():
    """Numbers per token are in no table, and a missing metric is shown as not measured."""
    table = rows_of(markdown([result("a", 0.7, loss=2.0, perplexity=7.4), result("b", 0.9, distinct_2=0.8)]))
    assert table[0] == ["model", "parameters", "text bits per byte", "distinct 2", "date"]
    assert table[2][3] == "not measured" and table[3][3] == "0.8 [0.72, 0.88]"
    assert all(len(row) == 5 for row in table)


def test_odd_name(tmp_path):
    """The name of a model cannot break the table or the figure."""
    name = "a|b\n| c | $x_1$ <&> \u540d " + "long" * 20
    table = markdown([result(name, 0.7)])
    assert len([row for row in table.splitlines() if row.startswith("|")]) == 3
    assert "a\\|b \\| c \\|" in table
    paths = draw([result(name, 0.7)], tmp_path)
    text = " ".join(ElementTree.parse(paths[0]).getroot().itertext())
    assert "$x_1$ <&>" in text or "a|b | c | $x_1$" in text


def test_figure(tmp_path):
    """The figure shows every model of its data, the best on top, and drawing it again gives the same bytes."""
    lines = [result("worse", 0.91), result("elsewhere", 0.1, OTHERS), result("better", 0.7)]
    paths = draw(lines, tmp_path / "figures")
    assert [path.suffix for path in paths] == [".svg", ".png"] * 2 and all(path.stat().st_size for path in paths)
    svg = paths[0].read_text(encoding="utf-8")
    heights = {
        "".join(text.itertext()): float(text.get("y"))
        for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"better (0.26M)", "worse (0.26M)", "0.700", "0.910"} <= set(heights) and "elsewhere" not in svg
    assert heights["better (0.26M)"] < heights["worse (0.26M)"]  # counted from the top
    again = draw(lines, tmp_path / "again")
    assert again[0].read_bytes() == paths[0].read_bytes()


def changed(line: dict, place: str, value) -> dict:
    line = copy.deepcopy(line)
    *folders, last = place.split(".")
    inner = line
    for folder in folders:
        inner = inner[folder]
    inner[last] = value
    return line


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", " "),
        ("parameters", 0),
        ("parameters", True),
        ("data", None),
        ("data.sha256", 7),
        ("data.bytes", "many"),
        ("metrics", {}),
        ("metrics.text_bits_per_byte", 0.7),
        ("metrics.text_bits_per_byte.low", 0.8),
        ("metrics.text_bits_per_byte.value", float("nan")),
        ("metrics.text_bits_per_byte.high", None),
        ("metrics.text_bits_per_byte.number", 0),
    ],
)
def test_damaged_result(tmp_path, place, value):
    """A damaged result is not added, and in a file it is named with its line."""
    path, bad = tmp_path / "results.jsonl", changed(result("ours", 0.7), place, value)
    add(path, result("peer", 0.9))
    before = path.read_bytes()
    assert str(path) in mistake(add, path, bad)
    assert path.read_bytes() == before
    path.write_bytes(before + json.dumps(bad).encode() + b"\n")
    assert f"{path}:2:" in mistake(read, path)
    assert f"{path}:2:" in mistake(add, path, result("ours", 0.7))


@pytest.mark.parametrize("row", [b"{", b"[]", b"\xff\xfe", b"7", b'{"model": "cut', b"[" * 100_000])
def test_not_a_result(tmp_path, row):
    """A line that is not a result is named with its number."""
    path = tmp_path / "results.jsonl"
    add(path, result("peer", 0.9))
    path.write_bytes(path.read_bytes() + b"\n" + row)
    assert f"{path}:3:" in mistake(read, path)


def test_missing_file(tmp_path):
    """A missing results file is named."""
    assert "absent.jsonl" in mistake(read, tmp_path / "absent.jsonl")
