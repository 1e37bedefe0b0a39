"""The report of a run: one page with its curves, samples, settings and numbers, made from the run's own files.

    report/index.html          needs no network, no script and no other file
    report/NAME.png, NAME.svg  the figures
    report/report.json         every number of the page

run_clm.py writes it when a run ends; `python report_run.py RUN_FOLDER` at any time, also while the run goes on. A run
that goes on is known up to its last checkpoint, and its evaluations up to the last one.
"""

import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers.trainer import TRAINER_STATE_NAME

from tinystories.config.recipe import default_values
from tinystories.errors import UserError
from tinystories.reporting.figures import CHARTS, COLOURS, Chart, Drawn, Points, draw
from tinystories.reporting.format import TEMPLATES, duration, is_number, number
from tinystories.run_files import (
    DATA_REPORT,
    ENVIRONMENT,
    EVALUATIONS,
    REPORT,
    SAMPLES,
    checkpoints,
    read_json,
    read_lines,
    spread,
    whole,
    without_local_paths,
)


SHOWN_SAMPLES = 10  # of each prompt
SHOWN_EVALUATIONS = 40


def write_report(folder: str | Path, output_dir: str | Path | None = None) -> Path:
    """Write the report of the run in `folder` to `output_dir` (default: `folder`/report); returns the page.

    Raises:
        UserError: `folder` holds no run, or output_dir cannot be written to.
    """
    folder = Path(folder)
    run = read_run(folder)
    output = Path(output_dir) if output_dir is not None else folder / REPORT
    try:
        output.mkdir(parents=True, exist_ok=True)
        figures = [draw(chart, points, output) for chart in CHARTS if (points := points_of(chart, run))]
        text = json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False)
        (output / "report.json").write_text(text + "\n", encoding="utf-8")
        (output / "index.html").write_text(render(run, figures), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {output}: {error.strerror or error}") from error
    return output / "index.html"


def read_run(folder: Path) -> dict[str, Any]:
    """Everything the page shows, as JSON can hold it: numbers that are not finite are None.

    Raises:
        UserError: there is no recipe.json in `folder`.
    """
    recipe = read_json(folder / "recipe.json")
    if not isinstance(recipe, dict):
        raise UserError(f"{folder} holds no run: it has no recipe.json; give the output_dir of run_clm.py")
    states = [read_json(place / TRAINER_STATE_NAME) for place in (folder, *reversed(checkpoints(folder)))]
    state = next((state for state in states if state is not None), {})
    history = state.get("log_history", [])
    evaluations = read_lines(folder / EVALUATIONS) or [row for row in history if "eval_loss" in row]
    log = [row for row in history if "loss" in row]
    results = read_json(folder / "all_results.json") or {}
    data = read_json(folder / DATA_REPORT) or {}
    data.pop("began_with", None)  # fingerprints, for resuming
    stops = [row for path in sorted(folder.glob("stopped_at_step_*.jsonl")) for row in read_lines(path)[:1]]
    run = {
        "name": folder.resolve().name,
        "finished": "eval_bits_per_byte" in results,
        "step": max([state.get("global_step", 0), *(row["step"] for row in evaluations)]),
        "max_steps": max(0, recipe.get("max_steps") or 0) or state.get("max_steps") or None,
        "results": results,
        "scored_step": state.get("best_global_step" if recipe.get("load_best_model_at_end") else "global_step"),
        "best": best_of(evaluations),
        "log": log,
        "evaluations": evaluations,
        "samples": read_lines(folder / SAMPLES),
        "settings": settings_of(recipe),
        "guards": data.pop("guards", {}),
        "stops": [{"step": row["step"], "loss": row.get("loss")} for row in stops],
        "data": data,
        "environment": read_json(folder / ENVIRONMENT) or {},
    }
    return _finite(without_local_paths(run | _totals(log, evaluations, results, state)))


def best_of(evaluations: list[dict]) -> dict | None:
    """The evaluation with the fewest bits per byte."""
    scored = [row for row in evaluations if is_number(row.get("eval_bits_per_byte"))]
    return min(scored, key=lambda row: row["eval_bits_per_byte"], default=None)


def _totals(log: list[dict], evaluations: list[dict], results: dict, state: dict) -> dict[str, Any]:
    """Tokens trained on, seconds of wall clock in training, and how fast the training alone was."""
    rows = [*log, *evaluations, state, results]
    tokens = max((row.get("num_input_tokens_seen") or row.get("tokens_seen") or 0 for row in rows), default=0)
    seconds = max((row["elapsed_seconds"] for row in rows if "elapsed_seconds" in row), default=None)
    timed = [row for row in log if "training_seconds" in row and "tokens_per_second" in row]
    training = sum(row["training_seconds"] for row in timed)
    speed = sum(row["tokens_per_second"] * row["training_seconds"] for row in timed) / training if training else None
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": speed}


def settings_of(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Every key of the recipe with its value and default, those that differ first."""
    defaults = json.loads(json.dumps(default_values(), default=str))
    settings = [
        {
            "key": key,
            "value": whole(value),
            "default": whole(defaults.get(key)),
            "changed": value != defaults.get(key),
        }
        for key, value in sorted(recipe.items())
    ]
    shortened = [setting | {"value": without_local_paths(setting["value"], setting["key"])} for setting in settings]
    return sorted(shortened, key=lambda setting: not setting["changed"])


def points_of(chart: Chart, run: dict[str, Any]) -> dict[str, Points]:
    """(step, value) of each line of `chart` that has any."""
    lines = {
        line.label: [
            (row["step"], row[line.key] * line.scale) for row in run[line.source] if row.get(line.key) is not None
        ]
        for line in chart.lines
    }
    return {label: points for label, points in lines.items() if points}


def render(run: dict[str, Any], figures: list[Drawn]) -> str:
    """The page. Every text that is not ours is escaped: a story may hold anything."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "words": lambda key: str(key).replace("_", " ")}
    prompts = dict.fromkeys(row["prompt"] for row in run["samples"])
    samples = {prompt: [row for row in run["samples"] if row["prompt"] == prompt] for prompt in prompts}
    return environment.get_template("report.html").render(
        run=run,
        figures=figures,
        colours=COLOURS,
        samples={prompt: spread(rows, SHOWN_SAMPLES) for prompt, rows in samples.items()},
        evaluations=spread(run["evaluations"], SHOWN_EVALUATIONS),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
