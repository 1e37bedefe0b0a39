"""docs/exports.md says of every door what docs/results/doors.json says, and the record shows the same model."""

import json

import pytest

from helpers.runs import ROOT, load_benchmark


doors = load_benchmark("doors")
RECORD = json.loads(doors.RECORD.read_text(encoding="utf-8"))


def test_document_is_written_from_the_record():
    document = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    assert doors.with_table(document, RECORD) == document


@pytest.mark.parametrize("name", RECORD["models"])
def test_same_model_through_every_door(name):
    """Full precision: every greedy token. Reduced: bits per byte within one per cent. Ids: all, but for run.c."""
    model = RECORD["models"][name]
    assert {door["format"] for door in model["doors"]} >= {"checkpoint", "llama", "onnx", "gguf", "page"}
    for door in model["doors"][1:]:
        if door["reader"] == "run.c":
            assert door["text_equal"]
            continue
        if door["exact"]:
            assert door["greedy_tokens_equal"] == door["greedy_tokens"], door
        if door["bits_per_byte"] is None:  # transformers.js in a browser, where only the text is compared
            continue
        assert door["bits_per_byte"] == pytest.approx(model["report"]["bits_per_byte"], rel=0.01)
        if door["texts"] and door["format"] != "llama2c":
            assert door["texts_equal"] == door["texts"] == 300
        assert door["tokens_per_second"] > 0


def test_every_kind_of_network():
    """A model with partial rotary, which llama2.c cannot express, and one whose whole heads are rotated."""
    kinds = {name: model["partial_rotary_factor"] for name, model in RECORD["models"].items()}
    assert 1.0 in kinds.values() and any(share < 1 for share in kinds.values())
    for name, share in kinds.items():
        assert ("llama2c" in RECORD["models"][name]["refused"]) == (share < 1)
