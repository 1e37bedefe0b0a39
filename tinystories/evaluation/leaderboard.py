"""Models side by side: a results file with one JSON line per model and data, and its tables and figures.

    {"model", "parameters", "data": {"name", "sha256", "stories", "bytes"}, "metrics": {name: {"value", "low", "high",
     "number"}}, "date", "versions"}

Bits per byte of the text decide, whatever the tokenizer; what counts per token compares no two models and is left
out. Models that read other stories stand in another table, however alike the names of the data are.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tinystories.atomic import write_atomically
from tinystories.errors import UserError
from tinystories.reporting.figures import COLOURS, STYLE
from tinystories.run_files import LIBRARIES


RANKED = "text_bits_per_byte"  # without the ends of stories, which not every model was taught
PER_TOKEN = {"loss", "perplexity", "article_loss", "other_loss", "gap"}  # depend on the tokenizer

Line = dict[str, Any]


def data_facts(name: str, stories: Iterable[str]) -> dict[str, Any]:
    """What a line says of its data. The hash covers every story, in order, each kept apart from the next."""
    digest, number, num_bytes = hashlib.sha256(), 0, 0
    for story in stories:
        data = story.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
        number, num_bytes = number + 1, num_bytes + len(data)
    return {"name": name, "sha256": digest.hexdigest(), "stories": number, "bytes": num_bytes}


def new_line(
    model: str, parameters: int, data: dict[str, Any], metrics: dict[str, dict], fingerprint: str | None = None
) -> Line:
    """A result of today with the libraries of this installation. fingerprint: of the weights (parts.fingerprint)."""
    return {
        "model": model,
        "fingerprint": fingerprint,
        "parameters": parameters,
        "data": data,
        "metrics": metrics,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {library: version(library) for library in LIBRARIES},
    }


def add(path: Path, line: Line) -> list[Line]:
    """Put `line` into the results file, in the place of one of the same model on the same data; returns all lines.

    Raises:
        UserError: the file holds a damaged line, or `line` is none; the file stays as it is.
    """
    if problem := _problem(line):
        raise UserError(f"the result of {line.get('model')!r} cannot be added to {path}: {problem}")
    lines = read(path) if path.exists() else []
    places = {_identity(known): i for i, known in enumerate(lines)}
    place = places.get(_identity(line), len(lines))
    lines[place : place + 1] = [line]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(known, ensure_ascii=False) + "\n" for known in lines))
    return lines


def read(path: Path) -> list[Line]:
    """The lines of a results file; one that is damaged is a `UserError` with its number."""
    try:
        rows = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    lines = []
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not JSON; mend or remove the line") from error
        if problem := _problem(line):
            raise UserError(f"{path}:{number}: {problem}; mend or remove the line")
        lines.append(line)
    return lines


def _identity(line: Line) -> tuple[str, str]:
    """The weights say which model it is, where they are known: two may have one name."""
    return line.get("fingerprint") or line["model"], line["data"]["sha256"]


def _problem(line: Any) -> str | None:
    """Why `line` is no result, in words."""
    if not isinstance(line, dict) or not isinstance(line.get("model"), str) or not line["model"].strip():
        return "it names no model"
    if not _is_count(line.get("parameters")):
        return "its number of parameters is missing"
    data, metrics = line.get("data"), line.get("metrics")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("name", "sha256")):
        return "the name or hash of its data is missing"
    if not all(_is_count(data.get(key)) for key in ("stories", "bytes")):
        return "the number of its stories or bytes is missing"
    if not isinstance(metrics, dict) or RANKED not in metrics:
        return f"it has no {RANKED}"
    wrong = [name for name, metric in metrics.items() if not _is_estimate(metric)]
    return f"{wrong[0]} has no value within its interval" if wrong else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_estimate(metric: Any) -> bool:
    if not isinstance(metric, dict) or not _is_count(metric.get("number")):
        return False
    numbers = [metric.get(key) for key in ("low", "value", "high")]
    plain = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
    return plain and numbers == sorted(numbers)


def tables(lines: list[Line]) -> list[list[Line]]:
    """The lines of each data set, best first; data sets in the order of the file."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["data"]["sha256"], []).append(line)
    return [sorted(group, key=lambda line: line["metrics"][RANKED]["value"]) for group in groups.values()]


def markdown(lines: list[Line]) -> str:
    """One table for each data set. In brackets: the 95 % interval over the stories."""
    return "\n".join(_markdown_table(group) for group in tables(lines))


def _markdown_table(group: list[Line]) -> str:
    names = dict.fromkeys(name for line in group for name in line["metrics"])
    columns = [RANKED, *(name for name in names if name not in PER_TOKEN | {RANKED})]
    heads = ["model", "parameters", *(name.replace("_", " ") for name in columns), "date"]
    rows = [
        [
            line["model"],
            f"{line['parameters']:,}",
            *(_cell(line["metrics"].get(name)) for name in columns),
            str(line.get("date", "")),
        ]
        for line in group
    ]
    rule = ["---", *["---:"] * (len(heads) - 2), "---"]
    table = "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in (heads, rule, *rows))
    return f"{_plain(_caption(group))}\n\n{table}\n"


def _caption(group: list[Line]) -> str:
    data = group[0]["data"]
    return f"{data['name']}: {data['stories']:,} stories, {data['bytes']:,} bytes, SHA-256 {data['sha256'][:12]}"


def _cell(metric: dict[str, float] | None) -> str:
    if metric is None:
        return "not measured"
    return f"{metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}]"


def _plain(text: str) -> str:
    """Text that stays one cell of one line."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def draw(lines: list[Line], folder: Path) -> list[Path]:
    """Bits per byte of each data set as bars, best on top, in folder/leaderboard-HASH.svg and .png."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for group in tables(lines) for path in _draw_one(group, folder)]


def _draw_one(group: list[Line], folder: Path) -> list[Path]:
    name = f"leaderboard-{group[0]['data']['sha256'][:12]}"
    metrics = [line["metrics"][RANKED] for line in group]
    values = [metric["value"] for metric in metrics]
    errors = [[m["value"] - m["low"] for m in metrics], [m["high"] - m["value"] for m in metrics]]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(7.2, 1.3 + 0.34 * len(group)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(group))
        axes.barh(places, values, xerr=errors, height=0.62, color=COLOURS["first"], ecolor=COLOURS["ink"], capsize=2)
        for place, metric in enumerate(metrics):
            axes.annotate(
                f"{metric['value']:.3f}", (metric["high"], place), (5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(places, [_label(line) for line in group], parse_math=False)
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.2 * max(metric["high"] for metric in metrics))
        axes.set_xlabel("bits per byte of the text with 95 % interval, lower is better")
        figure.suptitle(_caption(group), x=0.01, ha="left", fontsize=8, parse_math=False)
        paths = [folder / f"{name}.svg", folder / f"{name}.png"]
        figure.savefig(paths[0], facecolor="white", metadata={"Date": None})
        figure.savefig(paths[1], facecolor="white", dpi=160)
    return paths


def _label(line: Line) -> str:
    """Name and size; a long name loses its middle."""
    name, millions = " ".join(line["model"].split()), line["parameters"] / 1e6
    short = name if len(name) <= 36 else f"{name[:17]}\u2026{name[-18:]}"
    return f"{short} ({millions:.3g}M)"
