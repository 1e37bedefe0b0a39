"""Intervals of measured numbers."""

import pytest

from tinystories.evaluation.estimates import ratio, share


def test_interval_of_zero():
    """A share of 0 has an interval above 0: [0, 0] would say that the mistake cannot happen."""
    assert ratio([0, 0], [100, 50]).high == pytest.approx(3 / 150)
    assert share(0, 20).high > 0.1
    assert ratio([], []) is None and share(0, 0) is None
