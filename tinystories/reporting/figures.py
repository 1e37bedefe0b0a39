"""The curves of a run as figures: inline SVG in the colours of its page, and separate PNG and SVG files.

They are drawn by matplotlib without a window. Each chart answers one question and is small enough for a phone.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullLocator


if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType


# The colours of a light page. Inline, each becomes the CSS variable of its name, which has other values in dark mode.
COLOURS = {"ink": "#24292e", "grid": "#d5dae0", "first": "#0b6e99", "second": "#bf4f0b", "third": "#3c7a1f"}
COLOURS |= {"fourth": "#8a3fa0", "fifth": "#8f6a00", "sixth": "#c2185b", "seventh": "#00766a", "eighth": "#5d636b"}
LINE_COLOURS = tuple(COLOURS)[2:]
MARKERS = "os^DvPX*"  # of the lines in this order, for those who do not see the colours
SHORT_LABEL = 20  # characters of a legend that has room among the curves
FEW_POINTS = 30  # up to so many points are marked one by one
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",  # text stays text, to be read aloud and searched
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["grid"],
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}

Points = list[tuple[float, float]]  # (step, value), or what else the chart is drawn over


@dataclass(frozen=True)
class Line:
    """`key` of the rows of `source`: "log" or "evaluations"."""

    label: str
    source: str
    key: str
    scale: float = 1.0
    colour: str = "first"


@dataclass(frozen=True)
class Chart:
    """over: what the x-axis shows, in words."""

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    from_zero: bool = False  # so that a small change does not look like a large one
    over: str = "step"


CHARTS = (
    Chart(
        "loss",
        "Loss",
        "nats per token",
        (Line("training", "log", "loss"), Line("held-out stories", "evaluations", "eval_loss", colour="second")),
    ),
    Chart(
        "bits_per_byte",
        "Held-out stories",
        "bits per byte",
        (Line("", "evaluations", "eval_bits_per_byte", colour="second"),),
    ),
    Chart(
        "gap",
        "Loss on held-out minus training stories",
        "nats per token",
        (Line("", "evaluations", "eval_gap", colour="second"),),
    ),
    Chart(
        "articles",
        "The words a, an, the, and all the rest",
        "nats per token",
        (
            Line("articles", "evaluations", "eval_article_loss"),
            Line("other tokens", "evaluations", "eval_other_loss", colour="second"),
        ),
    ),
    Chart("learning_rate", "Learning rate", "", (Line("", "log", "learning_rate"),)),
    Chart("grad_norm", "Norm of the gradients, before clipping", "", (Line("", "log", "grad_norm"),)),
    Chart("tokens_per_second", "Speed of training", "tokens per second", (Line("", "log", "tokens_per_second"),), True),
    Chart("mfu", "Use of the device", "percent of the measured peak", (Line("", "log", "mfu", 100.0),), True),
    Chart("memory", "Memory", "GB", (Line("", "log", "memory_gb"),), True),
)


@dataclass(frozen=True)
class Drawn:
    """A chart as the page shows it."""

    name: str
    title: str
    description: str  # in words and numbers, for screen readers
    svg: str  # for a page that sets the CSS variables of COLOURS


def draw(chart: Chart, points: dict[str, Points], folder: Path) -> Drawn:
    """Write `chart` as folder/NAME.png and NAME.svg. points: of each line, by label, at least one point each."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": chart.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a name; in the SVG it is text
        figure = figure_of(chart, points)
        figure.savefig(folder / f"{chart.name}.png", dpi=160, facecolor="white")
        figure.savefig(folder / f"{chart.name}.svg", facecolor="white", metadata={"Date": None})
    svg = (folder / f"{chart.name}.svg").read_text(encoding="utf-8")
    return Drawn(chart.name, chart.title, describe(chart, points), _for_a_page(svg))


def save_png(chart: Chart, points: dict[str, Points], path: Path) -> None:
    """Write the figure as one PNG file."""
    with matplotlib.rc_context(STYLE):
        figure_of(chart, points).savefig(path, format="png", dpi=160, facecolor="white", metadata={"Software": None})


def points_of(chart: Chart, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Points]:
    """(step, value) of each line of `chart` that has any. rows: by source, "log" and "evaluations"."""
    lines = {
        line.label: [
            (row["step"], row[line.key] * line.scale) for row in rows[line.source] if row.get(line.key) is not None
        ]
        for line in chart.lines
    }
    return {label: points for label, points in lines.items() if points}


def figure_of(chart: Chart, points: dict[str, Points]) -> Figure:
    lines = [line for line in chart.lines if line.label in points]
    labels = [line.label for line in lines]
    above = len(lines) > 2 or any(len(label) > SHORT_LABEL for label in labels)  # a legend that would hide the curves
    figure = Figure(figsize=(4.0, 2.7 + 0.19 * len(lines) * above), layout="constrained")
    axes = figure.add_subplot()
    for line in lines:
        places, values = zip(*points[line.label], strict=True)
        marker = MARKERS[LINE_COLOURS.index(line.colour)] if len(places) <= FEW_POINTS else None
        axes.plot(places, values, color=COLOURS[line.colour], marker=marker, markersize=3.5, linewidth=1.4)
    if chart.from_zero:
        axes.set_ylim(0, 1.1 * max(value for line in points.values() for _, value in line) or 1)
    axes.set_xlabel(chart.over)
    axes.set_ylabel(chart.unit)
    round_ticks(axes.xaxis, whole=chart.over == "step")
    round_ticks(axes.yaxis)
    if len(lines) > 1:
        _legend(figure, axes, labels, above)
    return figure


def _legend(figure: Figure, axes: Axes, labels: list[str], above: bool) -> None:
    """A label may be a name from outside: a formula in it is text, and one that begins with _ is shown too."""
    shown = [f" {label}" if label.startswith("_") else label for label in labels]
    lines = axes.get_lines()
    legend = figure.legend(lines, shown, loc="outside upper left") if above else axes.legend(lines, shown)
    for text in legend.get_texts():
        text.set_parse_math(False)


def round_ticks(axis: Axis, whole: bool = False) -> None:
    """At most nine ticks, at 1, 2 or 5 times a power of ten, and written without an offset. whole: at integers only."""
    if axis.get_scale() == "log":
        axis.set_major_locator(RoundLogLocator())
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole))
    axis.set_major_formatter(TickText(even=axis.get_scale() != "log"))


class RoundLogLocator(LogLocator):
    """Ticks at 1, 2 and 5 times a power of ten; at powers of ten alone where these would be too many."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        self.set_params(subs=(1, 2, 5) if vmax < 500 * vmin else (1,), numticks=8)
        return super().tick_values(vmin, vmax)


class TickText(Formatter):
    """`tick_text` of each tick; even: with as many decimals at all of them, where they are plain numbers."""

    def __init__(self, even: bool):
        self.even = even

    def __call__(self, value: float, pos: int | None = None) -> str:
        return tick_text(value)

    def format_ticks(self, values: list[float]) -> list[str]:
        texts = [tick_text(float(value)) for value in values]
        if len(set(texts)) < len(texts):  # 1M three times, between 1,000,000 and 1,000,010
            texts = [f"{value:,.15g}" for value in values]
        digits = {len(text.partition(".")[2]) for text in texts}
        plain = self.even and all(set(text) <= set("-0123456789.,") for text in texts)
        return [f"{value:,.{max(digits)}f}" for value in values] if plain and texts else texts


def tick_text(value: float) -> str:
    """A number in few characters: 0.05, 1,500, 200k, 3M, 2e13."""
    for size, letter in ((1e12, ""), (1e9, "B"), (1e6, "M"), (1e5, "k")):
        if abs(value) >= size:
            return f"{value / {'k': 1e3}.get(letter, size):g}{letter}" if letter else _short_power(f"{value:.3g}")
    return _short_power(f"{value:,.6g}")


def _short_power(text: str) -> str:
    return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].replace("+", ""), text)


def describe(chart: Chart, points: dict[str, Points]) -> str:
    """The first, last and lowest value of each line, as text."""
    parts = []
    for label, line in points.items():
        (first, start), (last, end) = line[0], line[-1]
        lowest = min(line, key=lambda point: point[1])
        words = f"{start:.4g} at {chart.over} {first:.10g}"
        if len(line) > 1:
            words += f", {end:.4g} at {chart.over} {last:.10g}, lowest {lowest[1]:.4g} at {chart.over} {lowest[0]:.10g}"
        parts.append(f"{label}: {words}" if label else words)
    unit = f" in {chart.unit}" if chart.unit else ""
    return f"{chart.title}{unit}. {'; '.join(parts)}."


def _for_a_page(svg: str) -> str:
    """The SVG without its file header, ids (another figure has the same) and fixed size; colours as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace("fill: #ffffff", "fill: none")
