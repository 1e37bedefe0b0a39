"""The overall number: a mean of standings that says nothing where a part of it is missing."""

import pytest

from tinystories.evaluation.overall import overall
from tinystories.evaluation.table import LIKE_HUMAN, LOWER
from tinystories.evaluation.text.metrics import METRICS


BARS = [metric for metric in METRICS if not metric.alarm]


def column(value: float, spread: float = 0.0) -> dict:
    """Each metric `value` of the way from people (0) to the floor (1), in its bad direction."""
    found = {}
    for metric in BARS:
        at = 5 + value if metric.good in (LOWER, LIKE_HUMAN) else 5 - value
        found[metric.name] = {"value": at, "low": at - spread, "high": at + spread, "number": 9}
    return found


def test_ends():
    """The floor has 0, people have 1, and half-way is a half."""
    values = [overall(column(far), [column(1)], column(0)).value for far in (1, 2, 0, 0.5)]
    assert values == pytest.approx([0, 0, 1, 0.5])


def test_one_bad_metric():
    """One metric at its floor costs its share; so does one that found nothing to judge."""
    for bad in (column(1)[BARS[0].name], None):
        found = overall(column(0) | {BARS[0].name: bad}, [column(1)], column(0))
        assert found.value == pytest.approx(1 - 1 / len(BARS))
        assert found.number == 9  # a leaderboard refuses a result of 0 stories


def test_interval():
    """The interval holds the value and is that of a single metric, since all may err the same way at once."""
    found = overall(column(0.5, spread=0.1), [column(1)], column(0))
    assert (found.low, found.value, found.high) == pytest.approx((0.4, 0.5, 0.6))
    assert overall(column(0, spread=0.1), [column(1)], column(0)).high == 1


def test_too_much_is_too_little():
    """Text that differs from people's on the other side is no better, where people's value is the best."""
    too_much = {metric.name: column(-0.5)[metric.name] for metric in BARS if metric.good == LIKE_HUMAN}
    assert too_much and overall(column(0) | too_much, [column(1)], column(0)).value < 1


def test_missing_part():
    """Without a floor or people's value of a bar, such as without a critic, there is no overall number."""
    known = column(1)
    del known["surprise"]
    assert overall(column(0), [known], column(0)) is None
    assert overall(column(0), [column(1)], known) is None


def test_no_way():
    """A metric on which people are no better than the floor does not count."""
    people = column(0) | {BARS[0].name: column(1)[BARS[0].name]}
    assert overall(column(0.5), [column(1)], people).value == pytest.approx(0.5)
