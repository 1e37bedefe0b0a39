"""docs/guards.md: its costs are those of the record, and it names every guard of a run."""

import json

from helpers.runs import ROOT, load_benchmark


GUARDS = load_benchmark("guards")


def test_document():
    record = json.loads(GUARDS.RECORD.read_text(encoding="utf-8"))
    document = (ROOT / "docs/guards.md").read_text(encoding="utf-8")
    assert GUARDS.with_numbers(document, record) == document
    names = {name for seconds in record["seconds"].values() for name in seconds}
    assert {name for name in names if name not in document.replace(", ", " | ")} <= {
        "weights kept",
        "validation stories",
    }
    assert sum(record["seconds"]["before the first step"].values()) <= 11  # what a user waits for, in all
