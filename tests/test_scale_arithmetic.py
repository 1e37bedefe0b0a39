"""docs/distributed.md agrees with its record, and the record with the recipes."""

import json

import pytest

from helpers.runs import ROOT, load_benchmark


BENCHMARK = load_benchmark("scale_arithmetic")
RECORD = json.loads((ROOT / "docs" / "results" / "scale.json").read_text(encoding="utf-8"))


def test_tables_match_record():
    """Tables edited by hand, or left behind by a new record or by a recipe that changed."""
    document = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    assert BENCHMARK.with_tables(document, RECORD) == document
    assert RECORD["sizes"] == {name: BENCHMARK.sizes_of(path) for name, path in BENCHMARK.RECIPES.items()}


def test_arithmetic():
    """By hand, for a model of one weight, a step of 8 tokens and rates of 1."""
    sizes = {"parameters": 1, "flops_per_token": 1, "rows_per_step": 8, "tokens_per_step": 8, "checkpoint_bytes": 12}
    one, eight = (BENCHMARK.need(sizes, gpus, BENCHMARK.PEAK * BENCHMARK.REACHED / 2.5, 3.0) for gpus in (1, 8))
    assert one["ddp_megabytes_per_step"] == one["fsdp_megabytes_per_step"] == 0
    assert eight["ddp_megabytes_per_step"] == pytest.approx(7e-6)  # 4 bytes, 7/8 of them sent twice
    assert eight["fsdp_megabytes_per_step"] == pytest.approx(1.5 * 7e-6)  # the weights twice, the gradients once
    assert eight["tokens_per_second"] == pytest.approx(8 * one["tokens_per_second"])
    assert (eight["rows_per_gpu"], eight["checkpoint_seconds"], eight["shards"]) == (1, 4, 24)
    assert eight["readers_per_gpu"] == pytest.approx(2.5)
