"""docs/long_runs.md says what docs/results/corpus_size.json says, and memory does not grow with the text."""

import json

from helpers.runs import ROOT, load_benchmark


RECORD = json.loads((ROOT / "docs" / "results" / "corpus_size.json").read_text(encoding="utf-8"))


def test_numbers_of_the_document():
    benchmark = load_benchmark("corpus_size")
    document = (ROOT / "docs/long_runs.md").read_text(encoding="utf-8")
    assert benchmark.with_numbers(document, RECORD) == document


def test_memory_is_flat():
    """At most a fifth more for the largest corpus than for the smallest, in every stage."""
    benchmark = load_benchmark("corpus_size")
    first, *_, last = RECORD["sizes"]
    assert last["bytes"] > 15 * first["bytes"]
    for stage in benchmark.STAGES:
        assert last[stage]["own_mb"] <= 1.2 * first[stage]["own_mb"], stage
