"""docs/evaluation.md and its record: every metric on the scale from an untrained network to people."""

import copy
import json

import pytest

from helpers.runs import ROOT, load_benchmark
from tinystories.evaluation.registry import all_metrics
from tinystories.evaluation.text.damages import DAMAGES


SCALE = load_benchmark("metric_scale")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(SCALE.RECORD.read_text(encoding="utf-8"))


def test_document(record):
    """The numbers of the document are those of its record."""
    document = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert SCALE.with_numbers(document, record) == document


def test_every_metric_is_useful(record):
    """Every metric is in the record, and the trained model is clearly above its floors in all but alarms."""
    assert SCALE.useless(record) == []  # where the model is not nearer to people than every floor and the shifted one
    shipped = {metric.name for metric in all_metrics()}
    assert set(record["metrics"]) == shipped
    assert {column for values in record["metrics"].values() for column in values} == set(SCALE.COLUMNS)


def test_bars(record):
    """No floor and no model of shifted labels stands near people on a bar, and checkpoints stand there by step."""
    assert SCALE.near_people(record) == []
    assert SCALE.disordered(record) == []


def test_damages(record):
    """Each damage of people's stories is seen by a bar, which calls undamaged stories of other people undamaged."""
    assert set(DAMAGES) <= set(record["damages"])
    assert not set(DAMAGES) & set(SCALE.unseen(record))
    again = {"metrics": record["undamaged"]["human"], "human": {}}  # other stories, as many
    assert SCALE.seen(record | {"damages": {"none": again}}) == {"none": []}


def test_overall(record):
    """Untrained, shifted labels, 1M, 6M, people; and no damaged story stands above undamaged ones."""
    values = {name: value["value"] for name, value in record["metrics"]["overall"].items() if value}
    order = ("untrained", "shifted", "small", "model", "people")
    assert sorted(order, key=values.__getitem__) == list(order)
    assert len({values[name] for name in order}) == len(order)
    people = record["metrics"]["overall"]["people"]
    for name, found in record["damages"].items():  # what no bar sees is called undamaged, and not better
        assert found["metrics"]["overall"]["value"] < (people["value"] if name in DAMAGES else people["high"]), name


def test_checks_can_fail(record):
    """A shifted model like people, a checkpoint too good for its step and an unseen damage are named."""
    wrong = copy.deepcopy(record)
    wrong["metrics"]["clean_sentences"]["shifted"] = wrong["metrics"]["clean_sentences"]["people"]
    assert SCALE.near_people(wrong) == ["clean_sentences: shifted"]
    assert "clean_sentences" in SCALE.useless(wrong) or wrong["metrics"]["clean_sentences"]["model"]["value"] > 0.9
    first = min(wrong["checkpoints"], key=int)
    wrong["checkpoints"][first]["metrics"]["bits_per_byte"] = {"value": 0.1, "low": 0.1, "high": 0.1, "number": 9}
    assert SCALE.disordered(wrong) == ["bits_per_byte"]
    wrong["damages"]["antonyms"] = wrong["undamaged"]
    assert "antonyms" in SCALE.unseen(wrong)
