"""The ticks of figures, and names from outside in their legends."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tinystories.reporting.figures import LINE_COLOURS, MARKERS, Chart, Line, draw, round_ticks, tick_text


def ticks(low, high, scale="linear", whole=False):
    """(values, texts) of the ticks between low and high."""
    axes = Figure(figsize=(4, 2.7)).add_subplot()
    axes.set_xscale(scale)
    axes.set_xlim(low, high)
    round_ticks(axes.xaxis, whole)
    values = [float(value) for value in axes.xaxis.get_majorticklocs()]
    texts = axes.xaxis.get_major_formatter().format_ticks(values)
    inside = [place for place, value in enumerate(values) if low <= value <= high]
    return [values[place] for place in inside], [texts[place] for place in inside]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e9))
def test_ticks_are_round(low, width):
    """Ticks at 0, 400, 800, 1200 and 3.75."""
    if width < 1e-6 * abs(low):  # nothing between them that can be told apart
        return
    values, _ = ticks(low, low + width)
    assert 1 <= len(values) <= 7
    if len(values) > 1:
        step = values[1] - values[0]
        assert round(float(f"{step:.3e}".split("e")[0]), 2) in (1, 2, 5, 10)


def test_tick_texts():
    """An offset (1e6 at the edge of the axis), decimals that differ, or six digits in a figure of a phone's width."""
    assert ticks(0, 1.2)[1] == ["0.0", "0.5", "1.0"]
    assert ticks(0, 1500, whole=True)[1] == ["0", "500", "1,000", "1,500"]
    assert ticks(0, 12_000_000)[1] == ["0", "5M", "10M"]
    assert ticks(1, 4, whole=True)[1] == ["1", "2", "3", "4"]
    assert ticks(0.9, 120, "log")[1] == ["1", "2", "5", "10", "20", "50", "100"]
    assert (
        ticks(1_000_000, 1_000_010)[1][:2] == ["1,000,000", "1,000,002"]
        and ticks(1e9, 1e9 + 5)[1][1] == "1,000,000,001"
    )
    assert [tick_text(value) for value in (2e13, 3e9, 2.5e5, 99_999, 5e-5, -0.25, 0, 1e300)] == [
        *("2e13", "3B", "250k", "99,999", "5e-5", "-0.25", "0", "1e300")
    ]


@pytest.mark.parametrize("low", [1e-9, 1e-3, 0.7, 1, 5e6])
@pytest.mark.parametrize("decades", [0.5, 1, 2.6, 2.8, 6, 8, 18])
def test_ticks_of_a_logarithmic_axis(low, decades):
    """No tick at all over eight decades, or 19 of them over six."""
    values, texts = ticks(low, low * 10**decades, "log")
    assert 2 <= len(values) <= 9 and len(set(texts)) == len(texts)
    assert {f"{value:.2e}"[:4] for value in values} <= {"1.00", "2.00", "5.00"}


HOSTILE = ["$\\frac{1}{", "_hidden", "<script>", "a&b", "数 🦊", "x" * 40, "$x$", ""]


@pytest.mark.filterwarnings("error")
def test_hostile_names(tmp_path):
    """A name that is no formula, one that matplotlib leaves out of a legend, one that breaks the XML."""
    lines = tuple(Line(name, "log", "loss", colour=LINE_COLOURS[i]) for i, name in enumerate(HOSTILE))
    drawn = draw(Chart("names", "T", "u", lines), {name: [(0, 1.0), (1, 0.5)] for name in HOSTILE}, tmp_path)
    text = "".join(ElementTree.fromstring(drawn.svg).itertext())
    for name in ("$\\frac{1}{", "_hidden", "<script>", "$x$", "数 🦊"):
        assert name in text
    assert "<script>" not in drawn.svg and len(MARKERS) == len(LINE_COLOURS) == len(set(LINE_COLOURS))
