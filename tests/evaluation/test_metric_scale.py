"""docs/evaluation.md and its record: every metric on the scale from an untrained network to people."""

import json

from helpers.runs import ROOT, load_benchmark
from tinystories.evaluation.registry import all_metrics


SCALE = load_benchmark("metric_scale")


def test_document():
    """The numbers of the document are those of its record."""
    record = json.loads(SCALE.RECORD.read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert SCALE.with_numbers(document, record) == document


def test_every_metric_is_useful():
    """Every metric is in the record, and the trained model is clearly above its floors in all but alarms."""
    record = json.loads(SCALE.RECORD.read_text(encoding="utf-8"))
    assert SCALE.useless(record) == []  # where the model is not nearer to people than every floor and the shifted one
    shipped = {metric.name for metric in all_metrics()}
    assert set(record["metrics"]) == shipped
    assert {column for values in record["metrics"].values() for column in values} == set(SCALE.COLUMNS)
