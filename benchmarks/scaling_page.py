"""The document and the figure of benchmarks/scaling.py, from its record and its fit."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from tables import table

from tinystories.checks.prediction import COVERAGE, LAW, Fit, bits_per_byte, short
from tinystories.reporting.figures import COLOURS, STYLE


BEGIN, END = "<!-- scaling: tables -->\n", "<!-- scaling: end -->"
COLUMNS = ["weights", "vocabulary", "MB of text", "epochs", "FLOPs", "bpb", "by the others", "inside"]


def page(document: str, record: dict[str, Any], fit: Fit) -> str:
    """The document with the block between its two comments made from the record."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{block(record, fit)}\n{END}{rest.split(END)[1]}"


def block(record: dict[str, Any], fit: Fit) -> str:
    parts = [
        _held_out(record),
        "What the law was fitted to:\n",
        _runs(record),
        _coverage(record),
        _laws(record),
        _law(fit),
    ]
    return "\n".join(parts)


def _held_out(record: dict[str, Any]) -> str:
    """The prediction, and what came of it."""
    score, time, run = record["prediction"]["score"], record["prediction"]["time"], record["held_out"]
    rows = [["bits per byte", *(f"{score[name]:.4f}" for name in ("bits_per_byte", "low", "high"))]]
    rows[0] += [f"{run['bits_per_byte']:.4f}", _yes(score["low"] <= run["bits_per_byte"] <= score["high"])]
    seconds = training_seconds(time)
    rows += [["seconds of training", *(f"{seconds[name]:.0f}" for name in ("seconds", "seconds_low", "seconds_high"))]]
    inside = seconds["seconds_low"] <= run["train_seconds"] <= seconds["seconds_high"]
    rows[1] += [f"{run['train_seconds']:.0f}", _yes(inside)]
    plan = run["plan"]
    text = (
        f"{short(plan['parameters'])} weights, {plan['vocabulary']:,} tokens, {run['bytes_seen'] / 1e6:.1f} MB in "
        f"{plan['epochs']:.2g} epochs, {run['training_flops']:.2g} FLOPs, seed {run['seed']}, {run['device']}:\n"
    )
    return text + "\n" + table(["", "predicted", "low", "high", "reached", "inside"], rows)


def training_seconds(time: dict[str, float]) -> dict[str, float]:
    """The estimate of the preflight without the final score, which `train_runtime` does not hold."""
    share = 1 - time["seconds_of_final_score"] / time["seconds"]
    return {name: time[name] * share for name in ("seconds", "seconds_low", "seconds_high")}


def _yes(inside: bool) -> str:
    return "yes" if inside else "no"


def _runs(record: dict[str, Any]) -> str:
    rows = []
    for name, check in record["checks"]["each_by_the_others"].items():
        runs = [run for run in record["runs"] if run["name"] == name]
        plan = runs[0]["plan"]
        rows.append(
            [
                short(plan["parameters"]),
                f"{plan['vocabulary']:,}",
                f"{plan['unique_bytes'] / 1e6:.1f}",
                f"{plan['epochs']:.2g}",
                f"{runs[0]['training_flops']:.1e}",
                ", ".join(f"{run['bits_per_byte']:.4f}" for run in runs),
                f"{check['predicted']:.3f} ({check['low']:.3f} to {check['high']:.3f})",
                f"{check['inside']} of {check['runs']}",
            ]
        )
    return table(COLUMNS, rows)


def coverage(checked: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Runs inside their interval, and all runs."""
    return sum(one["inside"] for one in checked.values()), sum(one["runs"] for one in checked.values())


def _coverage(record: dict[str, Any]) -> str:
    checked = record["checks"]
    (held, all_runs), (far, largest) = map(coverage, (checked["each_by_the_others"], checked["largest_by_the_rest"]))
    return (
        f"Of {all_runs} runs {held} are inside the {COVERAGE:.0%} interval that a fit to the other recipes gives; of "
        f"the {largest} runs of the largest network {far}, by a fit to the smaller networks only.\n"
    )


def _laws(record: dict[str, Any]) -> str:
    """How far left-out recipes are from the law and from simpler ones."""
    rows = [[name, f"{100 * error:.2g} %"] for name, error in record["checks"]["errors_of_left_out"].items()]
    text = "How far recipes are from a fit to all others (root mean square), by this law and by simpler ones:\n"
    return text + "\n" + table(["law", "error"], rows)


def _law(fit: Fit) -> str:
    low, high = np.quantile(fit.draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    rows = [[name, *(f"{x:.3g}" for x in values)] for name, *values in zip(LAW, fit.law, low, high, strict=True)]
    text = (
        f"Around the law recipes differ by {100 * fit.residual:.2g} %, seeds of one recipe by {100 * fit.seeds:.2g} % "
        "(standard deviations). Its parameters, with the interval of the bootstrap:\n"
    )
    return text + "\n" + table(["parameter", "value", "low", "high"], rows)


def claims(record: dict[str, Any]) -> dict[str, Any]:
    """What benchmarks/tables.py reads of a record; without the run that is held out, nothing is claimed."""
    if "held_out" not in record:
        return {}
    score, run = record["prediction"]["score"], record["held_out"]
    reached, expected = run["bits_per_byte"], score["bits_per_byte"]
    end = score["high"] if reached > expected else score["low"]
    held, all_runs = coverage(record["checks"]["each_by_the_others"])
    far = "Held-out run: distance from its prediction, as a share of that to the end of the interval"
    each = "Share of runs inside the interval of a fit to the other recipes"
    goals = [
        {"goal": far, "at_most": 1.0, "ratio": abs((reached - expected) / (end - expected))},
        {"goal": each, "at_least": COVERAGE, "ratio": held / all_runs},
    ]
    row = [short(run["plan"]["parameters"]), f"{run['training_flops']:.2g}"]
    row += [round(value, 4) for value in (expected, score["low"], score["high"], reached)]
    columns = ["weights", "FLOPs", "predicted", "low", "high", "reached"]
    tables = [{"title": "Bits per byte, predicted before training", "columns": columns, "rows": [row]}]
    return {"tables": tables, "goals": goals, "did_not_help": _simpler(record)}


def _simpler(record: dict[str, Any]) -> list[dict[str, str]]:
    """Simpler laws that predict recipes which they were not fitted to no better."""
    errors = dict(record["checks"]["errors_of_left_out"])
    own = errors.pop("the law")
    return [
        {"tried": f"Law: {name}", "result": f"left-out recipes are {100 * error:.2g} % off, not {100 * own:.2g} %"}
        for name, error in errors.items()
        if error >= own
    ]


def draw(record: dict[str, Any], fit: Fit, path: Path) -> None:
    """Dots: the runs. Lines: the law for each network; dashed, with empty dots, where it reads a part of the text."""
    runs, score = [*record["runs"], record["held_out"]], record["prediction"]["score"]
    texts = sorted({(run["plan"]["parameters"], run["plan"]["unique_bytes"]) for run in runs})
    sizes, longest = sorted({size for size, _ in texts}), max(text for _, text in texts)
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "scaling"}):
        figure = Figure(figsize=(7.0, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for size, text in texts:
            some = [run for run in runs if (run["plan"]["parameters"], run["plan"]["unique_bytes"]) == (size, text)]
            seen, scores = (np.array([run[name] for run in some]) for name in ("bytes_seen", "bits_per_byte"))
            along = np.geomspace(seen.min() / 1.3, 1.3 * seen.max())
            law = bits_per_byte(fit.law, np.full_like(along, size), np.full_like(along, text), along / text)
            colour = matplotlib.colormaps["viridis"](0.8 * sizes.index(size) / max(1, len(sizes) - 1))
            whole = text > 0.9 * longest  # bytes are counted from tokens, so that vocabularies differ a little
            axes.plot(along / 1e6, law, "-" if whole else "--", color=colour, linewidth=1.2)
            axes.plot(seen / 1e6, scores, "o", color=colour, markersize=4, markerfacecolor=colour if whole else "white")
            if text == max(other for owner, other in texts if owner == size):
                axes.annotate(
                    short(size), (along[-1] / 1e6, law[-1]), (3, -3), textcoords="offset points", color=colour
                )
        expected = score["bits_per_byte"]
        interval = [[expected - score["low"]], [score["high"] - expected]]
        at = record["held_out"]["bytes_seen"] / 1e6
        axes.errorbar(at, expected, interval, color=COLOURS["second"], capsize=5, label="predicted before training")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("text seen, MB (dashed: a part of the text, again and again)")
        axes.set_ylabel("bits per byte of held-out stories")
        axes.legend()
        figure.savefig(path, facecolor="white", metadata={"Date": None})
