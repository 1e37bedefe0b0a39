"""The metrics of a model between floor and ceiling."""

import pytest

from tinystories.evaluation.table import Metric, rows, standing


def estimate(value):
    return {"value": value, "low": value, "high": value, "number": 9}


@pytest.mark.parametrize(
    ("good", "people", "value", "expected"),
    [
        ("lower", 0.0, 5.0, 0.5),
        ("lower", 0.0, 12.0, 0.0),
        ("lower", 0.0, -1.0, 1.0),
        ("higher", 20.0, 15.0, 0.5),
        ("like human", 2.0, 3.0, 0.875),
        ("like human", 2.0, -0.5, 0.6875),
        ("like human", 2.0, 10.0, 0.0),
    ],
)
def test_standing(good, people, value, expected):
    """A standing is the share of the way from floor to people, in [0, 1]."""
    metric = Metric("m", "m", "", good, "")
    assert standing(metric, estimate(value), estimate(10.0), estimate(people)) == pytest.approx(expected)


def test_worse_floor():
    """The floor is the one that is farther from the ceiling."""
    metric = Metric("m", "m", "", "like human", "")
    (row,) = rows([metric], {"m": estimate(4.0)}, [{"m": estimate(1.0)}, {"m": estimate(9.0)}], {"m": estimate(3.0)})
    assert row["floor"]["value"] == 9.0
    (row,) = rows([metric], {"m": estimate(4.0)}, [{"m": estimate(-9.0)}, {"m": estimate(9.0)}], {"m": estimate(3.0)})
    assert row["floor"]["value"] == -9.0
