"""The report of several runs side by side: their curves over each other, what they were trained with, what they write.

    A-vs-B-report/index.html       needs no network, no script and no other file
    A-vs-B-report/NAME.png, .svg   the figures
    A-vs-B-report/comparison.json  every number of the page

`python report_run.py RUN RUN` writes it. A loss per token is shown only where the runs have the same tokenizer, since
it depends on what a token is. Bits per byte do not, but they do depend on the text: the page says where the runs were
scored on different stories.
"""

import json
import logging
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tinystories.errors import UserError, one_line
from tinystories.links import links_out_of
from tinystories.reporting.figures import LINE_COLOURS, Chart, Drawn, Line, Points, draw
from tinystories.reporting.format import is_number
from tinystories.reporting.pages import render
from tinystories.reporting.run_report import read_run
from tinystories.run_files import DataReport, Run


logger = logging.getLogger(__name__)

MOST_RUNS = len(LINE_COLOURS)
RECORD = "comparison.json"
LONGEST_NAME = 40  # characters of a run's name in a legend and in the name of the folder
# Keys of environment.json and data_report.json that differ between any two runs, or that the page shows elsewhere.
NOT_COMPARED = re.compile(
    r"peak_flops_measured|parameters|flops_per_token|guards|began_with|articles|separators|files$"
)


def write_comparison(folders: list[str], output_dir: str | Path | None = None) -> Path:
    """Write the page of the runs in `folders`; returns its path.

    output_dir: default is a folder here, named after the runs. One that holds anything but an earlier comparison of the
        same runs is refused.

    Raises:
        UserError: too few or too many runs, one that is named twice or holds no run, or output_dir cannot be used.
    """
    check_runs(folders)
    runs = [read_run(Path(folder)) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        for problem in run["problems"]:
            logger.warning("%s: %s", folder, problem)
    names = names_of(folders)
    output = Path(output_dir) if output_dir is not None else Path(default_folder(names))
    of = [sha256(os.fsencode(Path(folder).resolve())).hexdigest() for folder in folders]
    check_output(output, of)
    found = compare(names, runs, [Run(folder) for folder in folders])
    try:
        output.mkdir(parents=True, exist_ok=True)
        figures = [draw(chart, points, output) for chart, points in charts_of(names, runs, found)]
        text = json.dumps({"runs": names, "of": of, **found}, indent=2, ensure_ascii=False, allow_nan=False)
        (output / RECORD).write_text(text + "\n", encoding="utf-8")
        (output / "index.html").write_text(page_of(names, runs, found, figures), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {output}: {error.strerror or one_line(error)}") from error
    return output / "index.html"


def check_runs(folders: list[str]) -> None:
    """Raises UserError: too many runs for one page, or one of them twice."""
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs on one page: at most {MOST_RUNS} can be told apart", "name fewer")
    places = [Path(folder).resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{folder} is named twice", "name different runs")


def names_of(folders: list[str]) -> list[str]:
    """The shortest ends of the paths that differ: "a" and "b", or "one/demo" and "two/demo"."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = [shown_name("/".join(part[-length:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]  # longer than is shown


def shown_name(name: str) -> str:
    """Printable, on one line, and not longer than a legend may be; the end of a long name is what differs most."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    return name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :]


def default_folder(names: list[str]) -> str:
    """A name that every file system takes: "a-vs-b-report"."""
    safe = [re.sub(r'[\s/\\:*?"<>|…]+', "-", name).strip("-. ") or "run" for name in names]
    listed = safe if len(safe) == 2 else [safe[0], f"{len(safe) - 1}-others"]
    return "-vs-".join(listed) + "-report"


def check_output(output: Path, of: list[str]) -> None:
    """Raises UserError: `output` holds something else than an earlier comparison of these runs.

    of: hashes of their paths, since runs in other folders may have the same names.
    """
    if links := links_out_of(output):
        raise UserError(f"{output}: {links[0]} leads out of this folder by a link, and would be overwritten")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        earlier = json.loads((output / RECORD).read_text(encoding="utf-8"))["of"]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = None
    if earlier != of:
        raise UserError(f"{output} is there already, and is no comparison of these runs", "give another --output_dir")
    logger.info("%s: the earlier comparison of these runs is replaced", output)


def compare(names: list[str], runs: list[dict[str, Any]], files: list[Run]) -> dict[str, Any]:
    """What the page says beside its figures: whether losses compare, results, what differs, samples."""
    return {
        "same_tokenizer": alike([tokenizer_of(run) for run in files]),
        "same_stories": alike([scored_stories(run) for run in files]),
        "results": [results_of(run) for run in runs],
        "settings": differences([_values(run, "value") for run in runs], _defaults(runs)),
        "ground": differences([flat({"data": run["data"], "environment": run["environment"]}) for run in runs]),
        "samples": samples_of(runs),
    }


def alike(values: list[Any]) -> bool | None:
    """Whether all are equal; None where one is not known."""
    if any(value is None for value in values):
        return None
    return all(value == values[0] for value in values)


def tokenizer_of(run: Run) -> str | None:
    """A hash of the tokenizer of a run, in its folder or in a checkpoint."""
    places = [run.folder, *sorted(run.folder.glob("checkpoint-*"))]
    for path in (place / "tokenizer.json" for place in places):
        try:
            return sha256(path.read_bytes()).hexdigest()
        except OSError:
            continue
    return None


def scored_stories(run: Run) -> Any:
    """What says which stories an evaluation of the run has scored; None if that was not recorded."""
    data: DataReport | dict[str, Any] = run.data or {}
    validation = data.get("began_with", {}).get("validation")
    most = (run.recipe or {}).get("max_eval_samples") or data.get("validation_stories")
    return None if validation is None else [validation, min(most or 0, data.get("validation_stories") or 0)]


def results_of(run: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one run for the table; None where there is none."""
    results, best, environment = run["results"], run["best"] or {}, run["environment"]
    return {
        "finished": run["finished"],
        "bits_per_byte": results.get("eval_bits_per_byte", best.get("eval_bits_per_byte")),
        "perplexity": results.get("eval_perplexity", best.get("eval_perplexity")),
        "step": run["step"],
        "tokens": run["tokens"],
        "seconds": run["seconds"],
        "training_flops": results.get("training_flops"),
        "energy_kwh": results.get("energy_kwh"),
        "parameters": environment.get("parameters"),
        "device": environment.get("device_name"),
    }


def _values(run: dict[str, Any], column: str) -> dict[str, Any]:
    return {setting["key"]: setting[column] for setting in run["settings"] if setting["key"] != "output_dir"}


def _defaults(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each key that a run has: one of a later version did not exist for an earlier run, and changes nothing."""
    return {key: default for run in runs for key, default in _values(run, "default").items()}


def differences(found: list[dict[str, Any]], defaults: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """[{"key", "values"}] of the keys that are not the same in all. None, 0 and an empty list are the same: nothing.

    defaults: of a key that one does not have.
    """
    keys = dict.fromkeys(key for values in found for key in values)
    without = defaults or {}
    rows = [{"key": key, "values": [values.get(key, without.get(key)) for values in found]} for key in sorted(keys)]
    return [row for row in rows if not alike([[value or None] for value in row["values"]])]


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"data": {"train": {"stories": 5}}} as {"data: train: stories": 5}, without NOT_COMPARED."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if NOT_COMPARED.match(str(key)):
            continue
        name = f"{before}{key}".replace("_", " ")
        found |= flat(value, f"{name}: ") if isinstance(value, dict) else {name: value}
    return found


def samples_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{"prompt", "rows"}] of each prompt that two runs or more have: the last sample of each run, or None."""
    last = [{row["prompt"]: row for row in run["samples"]} for run in runs]
    prompts = dict.fromkeys(prompt for rows in last for prompt in rows)
    found = [{"prompt": prompt, "rows": [rows.get(prompt) for rows in last]} for prompt in prompts]
    return [entry for entry in found if sum(row is not None for row in entry["rows"]) > 1]


@dataclass(frozen=True)
class Axis:
    """What a curve is drawn over. key: of an evaluation; scale: of its values."""

    name: str
    words: str
    key: str
    scale: float = 1.0


def axes_of(runs: list[dict[str, Any]]) -> list[Axis]:
    """Step and tokens; FLOPs where every run has counted them; time where all ran on the same kind of device."""
    axes = [Axis("step", "step", "step"), Axis("tokens", "tokens trained on", "tokens_seen")]
    if all(_has(run, "training_flops") for run in runs):
        axes.append(Axis("flops", "training FLOPs", "training_flops"))
    devices = {run["environment"].get("device_name") for run in runs}
    if None not in devices and len(devices) == 1:
        longest = max((row.get("elapsed_seconds") or 0 for run in runs for row in run["evaluations"]), default=0)
        words, scale = ("hours", 1 / 3600) if longest > 3 * 3600 else ("minutes", 1 / 60)
        axes.append(Axis("time", f"{words} of wall clock", "elapsed_seconds", scale))
    return axes


def _has(run: dict[str, Any], key: str) -> bool:
    return any(row.get(key) for row in run["evaluations"])


def charts_of(
    names: list[str], runs: list[dict[str, Any]], found: dict[str, Any]
) -> list[tuple[Chart, dict[str, Points]]]:
    """The charts with a line of two runs at least, and their points."""
    bits = [("bits_per_byte", "Held-out stories", "bits per byte", "evaluations", axis) for axis in axes_of(runs)]
    losses = [
        ("eval_loss", "Held-out loss", "nats per token", "evaluations", Axis("step", "step", "step")),
        ("loss", "Training loss", "nats per token", "log", Axis("step", "step", "step")),
    ]
    charts = []
    for key, title, unit, source, axis in bits + (losses if found["same_tokenizer"] else []):
        column = "eval_bits_per_byte" if key == "bits_per_byte" else key
        lines = tuple(Line(name, source, column, colour=LINE_COLOURS[i]) for i, name in enumerate(names))
        chart = Chart(f"{key}_by_{axis.name}", f"{title} by {axis.words}", unit, lines, over=axis.words)
        points = {line.label: points_over(run[source], column, axis) for line, run in zip(lines, runs, strict=True)}
        charts.append((chart, {label: line for label, line in points.items() if line}))
    return [(chart, points) for chart, points in charts if len(points) > 1]


def points_over(rows: list[dict[str, Any]], key: str, axis: Axis) -> Points:
    """(place on the axis, value) of each row that has both."""
    return [
        (row[axis.key] * axis.scale, row[key])
        for row in rows
        if is_number(row.get(key)) and is_number(row.get(axis.key))
    ]


def page_of(names: list[str], runs: list[dict[str, Any]], found: dict[str, Any], figures: list[Drawn]) -> str:
    """The page as HTML."""
    return render(
        "comparison.html",
        names=names,
        found=found,
        figures=figures,
        markers=LINE_COLOURS,
        problems=_problems(names, runs),
    )


def _problems(names: list[str], runs: list[dict[str, Any]]) -> list[str]:
    return [f"{name}: {problem}" for name, run in zip(names, runs, strict=True) for problem in run["problems"]]
