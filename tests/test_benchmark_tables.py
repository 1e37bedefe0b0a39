"""benchmarks/README.md is what the records say, and a claim that its record does not support is refused."""

import json
from copy import deepcopy

import pytest

from helpers.runs import load_benchmark, mistake


tables = load_benchmark("tables")
ORIGIN = {
    "commit": "0123456789" * 4,
    "uncommitted_changes": False,
    "date": "2026-05-04T03:02:01+00:00",
    "command": "python benchmarks/optimizers.py --train_file 'a b.txt'",
    "seconds": 300.0,
    "machine": {
        "processor": "Some CPU",
        "instructions": ["avx2", "avx512_bf16"],
        "cores": 2,
        "threads": 1,
        "accelerator": None,
        "load_by_others": 0.31,
        "shared": True,
    },
    "versions": {"torch": "2.0.0", "transformers": "5.0.0"},
}
GOAL = {"goal": "decoding: times `generate`", "at_least": 5.0, "ratio": 8.1, "low": 7.7, "high": 8.4}
TABLE = {"title": "Decoding is faster", "columns": ["way", "tokens/s"], "rows": [["ours", 1234], ["a|b\nc", 0.04567]]}
CLAIM = {
    "provenance": ORIGIN,
    "tables": [TABLE],
    "goals": [GOAL],
    "did_not_help": [{"tried": "a larger cache", "result": "0.98 times"}],
}


@pytest.fixture
def written(tmp_path):
    """Function of records by name -> the page that the command writes from them."""

    def write(**records) -> str:
        for name, record in records.items():
            text = record if isinstance(record, str) else json.dumps(record)
            (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        page = tmp_path / "README.md"
        tables.main(["--records", str(tmp_path), "--page", str(page)])
        return page.read_text(encoding="utf-8")

    return write


def claim(**changes) -> dict:
    """The claim with one goal, whose values are changed; None takes a key away."""
    goal = {key: value for key, value in (GOAL | changes).items() if value is not None}
    return CLAIM | {"goals": [goal]}


def row_of(page: str, begin: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {begin}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_page_of_the_records():
    """benchmarks/README.md was edited by hand, or a record was measured again."""
    tables.main(["--check"])


def test_check(written, tmp_path):
    """It fails for a page that differs or is missing, and leaves it as it is."""
    check = ["--check", "--records", str(tmp_path), "--page", str(tmp_path / "README.md")]
    assert "is not what the records say; run: python benchmarks/tables.py" in mistake(tables.main, check)
    assert not (tmp_path / "README.md").exists()
    page = written(one=CLAIM)
    tables.main(check)
    (tmp_path / "README.md").write_text(page.replace("8.10", "8.20"), encoding="utf-8")
    assert "is not what the records say" in mistake(tables.main, check)
    assert "8.20" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_claim(written):
    """Claim, ratio with spread, machine with its instructions, versions, date, commit, command, what did not help."""
    page = written(fast_step=CLAIM)
    assert row_of(page, "decoding") == [
        "decoding: times `generate`",
        "at least 5",
        "8.10",
        "7.70 to 8.40",
        "yes",
        "Some CPU, 2 cores, AVX512-BF16",
        "[fast_step.json](../docs/results/fast_step.json)",
    ]
    for fact in (
        "## Fast step\n",
        "- Command: `python benchmarks/optimizers.py --train_file 'a b.txt'`\n",
        "- Machine: Some CPU, 2 cores, AVX2, AVX512-BF16; 1 thread of torch; other processes used 31 % of its cores\n",
        "- Versions: torch 2.0.0, transformers 5.0.0\n",
        "- Measured: 2026-05-04, commit 0123456, in 5.0 minutes\n",
        "### Decoding is faster\n\n| way | tokens/s |\n|---|---:|\n| ours | 1,234 |\n| a\\|b c | 0.0457 |\n",
        "### Tried, and did not help\n\n| tried | result |\n|---|---|\n| a larger cache | 0.98 times |\n",
    ):
        assert fact in page


def test_accelerator_is_named(written):
    """A ratio that was seen on a GPU is not one of the processor beside it."""
    gpu = deepcopy(CLAIM)
    gpu["provenance"]["machine"] |= {"accelerator": "Some GPU"}
    assert row_of(written(gpu=gpu), "decoding")[5] == "Some GPU, Some CPU, 2 cores, AVX512-BF16"


def test_uncommitted_code_is_told(written):
    changed = CLAIM | {"provenance": ORIGIN | {"uncommitted_changes": True}}
    assert "commit 0123456 with uncommitted changes" in written(one=changed)


@pytest.mark.parametrize(
    ("goal", "measured", "reached"),
    [
        ({"at_least": 5.0, "ratio": 5.0, "low": 5.0}, "5.00", "yes"),
        ({"at_least": 5.0, "ratio": 4.9996, "low": 4.9}, "4.9996", "no"),
        ({"at_least": 5, "ratio": 0.00001234, "low": 0}, "0.0000123", "no"),
        ({"at_least": None, "at_most": 1.1, "ratio": 1.1, "low": 1, "high": 1.1}, "1.10", "yes"),
        ({"at_least": None, "at_most": 1.1, "ratio": 1.1004, "low": 1}, "1.1004", "no"),
        ({"at_least": None, "at_most": 2.5, "ratio": 0, "low": 0, "high": 0}, "0", "yes"),
        ({"at_least": 9000, "ratio": 12345.6, "low": 9000, "high": 99999}, "12,346", "yes"),
        ({"at_least": 8.0, "low": 7.9}, "8.10", "yes, not in every repeat"),
        ({"at_least": None, "at_most": 8.2, "high": 8.3}, "8.10", "yes, not in every repeat"),
    ],
)
def test_reached(written, goal, measured, reached):
    """Computed from the ratio; rounding never shows a ratio on the other side of what was asked."""
    row = row_of(written(one=claim(**goal)), "decoding")
    assert (row[2], row[4]) == (measured, reached)


def test_nothing_else_was_tried(written):
    page = written(one=without("did_not_help"))
    assert "### Decoding is faster" in page and "did not help" not in page


def test_measured_once(written):
    assert row_of(written(one=claim(low=None, high=None)), "decoding")[3] == "measured once"


def test_any_subset_in_one_order(written, tmp_path):
    """No record, other records alone, and claims in the order of their names whatever order they were written in."""
    assert "## " not in written()
    other = {"provenance": {"command": "python run_clm.py configs/demo.yaml", "date": ORIGIN["date"]}}
    page = written(old_one=other)
    assert "## Goals" not in page
    script = "[run_clm.py](../run_clm.py)"
    assert row_of(page, "[old")[1:] == [script, "2026-05-04", "not recorded"]
    page = written(b_two=CLAIM, a_one=CLAIM)
    assert page.index("a_one.json") < page.index("b_two.json") < page.index("## A one") < page.index("## B two")
    assert page.index("## B two") < page.index("## Other records") < page.index("old_one.json")


def without(*path) -> dict:
    """The claim without the value at this path."""
    record = deepcopy(CLAIM)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return record


REFUSED = {
    "cut off": ('{"provenance": {', "is no JSON"),
    "no provenance": (without("provenance"), "has no provenance"),
    "no object": ([CLAIM], "has no provenance"),
    "no commit": (without("provenance", "commit"), "has no commit"),
    "no version": (without("provenance", "versions", "torch"), "has no version of torch"),
    "no processor": (without("provenance", "machine", "processor"), "has no processor"),
    "tables alone": (without("goals"), "has no goals"),
    "goals alone": (without("tables"), "has no tables"),
    "trials alone": ({"provenance": ORIGIN, "did_not_help": CLAIM["did_not_help"]}, "has no tables and no goals"),
    "no name": (without("goals", 0, "goal"), "an entry of goals has no goal"),
    "no result": (without("did_not_help", 0, "result"), "an entry of did_not_help has no result"),
    "no cell": (CLAIM | {"tables": [TABLE | {"columns": ["way"]}]}, "one cell for each column"),
    "nothing asked": (claim(at_least=None), "needs one of at_least and at_most"),
    "asked twice": (claim(at_most=9), "needs one of at_least and at_most"),
    "not measured": (claim(ratio=None), "has no number ratio"),
    "measured as a word": (claim(ratio="8.1"), "has no number ratio"),
    "a truth value": (claim(ratio=True), "has no number ratio"),
    "not a number": (claim(ratio=float("nan")), "has no number ratio"),
    "half a spread": (claim(high=None), "outside its spread"),
    "a spread beside the ratio": (claim(low=8.2), "outside its spread"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(written, tmp_path, name):
    """One line, and no page: a claim without an origin, or one of which nobody can say whether it was reached."""
    record, reason = REFUSED[name]
    assert reason in mistake(written, one=record)
    assert not (tmp_path / "README.md").exists()
