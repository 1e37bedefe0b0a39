"""The curves of a run as figures: inline SVG in the colours of its page, and separate PNG and SVG files.

They are drawn by matplotlib without a window. Each chart answers one question and is small enough for a phone.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType


# The colours of a light page. Inline, each becomes the CSS variable of its name, which has other values in dark mode.
COLOURS = {"ink": "#24292e", "grid": "#d5dae0", "first": "#0b6e99", "second": "#bf4f0b"}
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

Points = list[tuple[int, float]]  # (step, value)


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
    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    from_zero: bool = False  # so that a small change does not look like a large one


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
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": chart.name}):
        figure = Figure(figsize=(4.0, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for line in (line for line in chart.lines if line.label in points):
            steps, values = zip(*points[line.label], strict=True)
            marker, colour = "o" if len(steps) <= FEW_POINTS else None, COLOURS[line.colour]
            axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=line.label)
        if chart.from_zero:
            axes.set_ylim(0, 1.1 * max(value for line in points.values() for _, value in line))
        axes.set_xlabel("step")
        axes.set_ylabel(chart.unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(points) > 1:
            axes.legend()
        figure.savefig(folder / f"{chart.name}.png", dpi=160, facecolor="white")
        figure.savefig(folder / f"{chart.name}.svg", facecolor="white", metadata={"Date": None})
    svg = (folder / f"{chart.name}.svg").read_text(encoding="utf-8")
    return Drawn(chart.name, chart.title, describe(chart, points), _for_a_page(svg))


def describe(chart: Chart, points: dict[str, Points]) -> str:
    """The first, last and lowest value of each line, as text."""
    parts = []
    for label, line in points.items():
        (first, start), (last, end) = line[0], line[-1]
        lowest = min(line, key=lambda point: point[1])
        words = f"{start:.4g} at step {first}"
        if len(line) > 1:
            words += f", {end:.4g} at step {last}, lowest {lowest[1]:.4g} at step {lowest[0]}"
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
