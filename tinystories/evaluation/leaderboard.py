"""The leaderboard: a results file with one JSON line for each model and data set, its tables and its figures.

    {"model", "parameters", "data": {"name", "sha256", "stories", "bytes"}, "metrics": {name: {"value", "low", "high",
     "number"}}, "date", "versions"}

Models are ranked by bits per byte of the text, which do not depend on the tokenizer. Numbers per token do, and are left
out. Models measured on different stories are in different tables, even if the data sets have the same name.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinystories.atomic import write_atomically
from tinystories.errors import UserError
from tinystories.reporting.format import cell
from tinystories.run_files import LIBRARIES


RANKED = "text_bits_per_byte"  # without the ends of stories, since some models have no end token
PER_TOKEN = {"loss", "perplexity", "article_loss", "other_loss", "gap"}  # depend on the tokenizer

Line = dict[str, Any]


def data_facts(name: str, stories: Iterable[str]) -> dict[str, Any]:
    """What a line says about its data. The hash covers the stories, in order, and where each ends."""
    digest, number, num_bytes = hashlib.sha256(), 0, 0
    for story in stories:
        data = story.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
        number, num_bytes = number + 1, num_bytes + len(data)
    return {"name": name, "sha256": digest.hexdigest(), "stories": number, "bytes": num_bytes}


def new_line(
    model: str,
    parameters: int,
    data: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    fingerprint: str | None = None,
) -> Line:
    """A result with today's date and the installed library versions. fingerprint: `cache.fingerprint` of the model."""
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
    """Add `line` to the results file, replacing a line of the same model and data; returns all lines.

    Raises:
        UserError: a line of the file is damaged, or `line` is not a result. The file is not changed.
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
    """The lines of a results file.

    Raises:
        UserError: the file cannot be read, or a line is damaged (with its number).
    """
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
            raise UserError(f"{path}:{number}: not JSON; repair or remove the line") from error
        if problem := _problem(line):
            raise UserError(f"{path}:{number}: {problem}; repair or remove the line")
        lines.append(line)
    return lines


def _identity(line: Line) -> tuple[str, str]:
    """Which model and data a line is of. Two models may share a name, so the fingerprint of the weights comes first."""
    return line.get("fingerprint") or line["model"], line["data"]["sha256"]


def _problem(line: Any) -> str | None:
    """Why `line` is not a result; None if it is one."""
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
    known = [number for number in numbers if isinstance(number, (int, float)) and math.isfinite(number)]
    return len(known) == len(numbers) and known == sorted(known)


def tables(lines: list[Line]) -> list[list[Line]]:
    """The lines of each data set, best first; the data sets in the order of the file."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["data"]["sha256"], []).append(line)
    return [sorted(group, key=lambda line: line["metrics"][RANKED]["value"]) for group in groups.values()]


def markdown(lines: list[Line]) -> str:
    """One table for each data set, with 95 % intervals over the stories in brackets."""
    return "\n".join(_markdown_table(group) for group in tables(lines))


def _markdown_table(group: list[Line]) -> str:
    names = dict.fromkeys(name for line in group for name in line["metrics"])
    columns = [RANKED, *(name for name in names if name not in PER_TOKEN | {RANKED})]
    heads = ["model", "parameters", *(name.replace("_", " ") for name in columns), "date"]
    rows = [
        [
            line["model"],
            f"{line['parameters']:,}",
            *(cell(line["metrics"].get(name), digits=4) for name in columns),
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


def _plain(text: str) -> str:
    """`text` escaped so that it stays in one cell on one line."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def draw(lines: list[Line], folder: Path) -> list[Path]:
    """Draw the bits per byte of each data set as bars, best on top: folder/leaderboard-HASH.svg and .png."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for group in tables(lines) for path in _draw_one(group, folder)]


def _draw_one(group: list[Line], folder: Path) -> list[Path]:
    import matplotlib  # slow to import, and not needed to read or add a result
    from matplotlib.figure import Figure

    from tinystories.reporting.figures import COLOURS, STYLE

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
    """Name and size; the middle of a long name is cut out."""
    name, millions = " ".join(line["model"].split()), line["parameters"] / 1e6
    short = name if len(name) <= 36 else f"{name[:17]}\u2026{name[-18:]}"
    return f"{short} ({millions:.3g}M)"
