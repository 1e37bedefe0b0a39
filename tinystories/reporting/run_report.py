"""The report of a run: one page with its curves, samples, settings and numbers, made from the run's own files.

    report/index.html          needs no network, no script and no other file
    report/NAME.png, NAME.svg  the figures
    report/report.json         every number of the page

run_clm.py writes it when a run ends; `python report_run.py RUN_FOLDER` at any time. For a run that is still going it
shows the log up to the last checkpoint, and all evaluations so far.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinystories.config.recipe import default_values
from tinystories.console import program_name
from tinystories.errors import UserError, one_line
from tinystories.links import leads_outside, links_out_of
from tinystories.reporting.figures import CHARTS, Drawn, draw, points_of
from tinystories.reporting.format import is_number, spread
from tinystories.reporting.pages import render
from tinystories.run_files import (
    RECIPE,
    REPORT,
    DataReport,
    EvaluationRow,
    Run,
    RunFileError,
    TrainerState,
    checkpoints,
    evaluations_in,
    without_fraction,
    without_local_paths,
)


logger = logging.getLogger(__name__)

SHOWN_SAMPLES = 10  # of each prompt
SHOWN_EVALUATIONS = 40


def write_report(folder: str | Path, output_dir: str | Path | None = None) -> Path:
    """Write the report of the run in `folder` to `output_dir` (default: `folder`/report); returns the page.

    A file of the run that is damaged or cannot be read is named on the page and in the log.

    Raises:
        UserError: `folder` holds no run, or output_dir cannot be written to or leads elsewhere by a link.
    """
    folder = Path(folder)
    run = read_run(folder)
    for problem in run["problems"]:
        logger.warning("%s: %s", folder, problem)
    output = Path(output_dir) if output_dir is not None else folder / REPORT
    if output_dir is None and leads_outside(output, folder):
        raise UserError(f"{output} leads out of the run folder by a link", "remove it, or give another --output_dir")
    if links := links_out_of(output):
        raise UserError(
            f"{output}: {links[0]} leads out of this folder by a link, and would be overwritten", "remove it"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        figures = [draw(chart, points, output) for chart in CHARTS if (points := points_of(chart, run))]
        text = json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False)
        (output / "report.json").write_text(text + "\n", encoding="utf-8")
        (output / "index.html").write_text(page_of(run, figures), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {output}: {error.strerror or one_line(error)}") from error
    return output / "index.html"


def read_run(folder: Path) -> dict[str, Any]:
    """Everything that the page shows, as JSON can hold it: numbers that are not finite are None.

    Raises:
        UserError: `folder` has no recipe.json, or one that cannot be used.
    """
    run = Run(folder)
    if run.recipe is None:
        if run.problems:
            raise UserError(f"{folder}: {run.problems[0]}, so there is no report of this run")
        raise UserError(f"{folder} holds no run: it has no {RECIPE}", f"give the output_dir of {program_name('train')}")
    state, problems = _last_state(run)
    data: DataReport | dict[str, Any] = run.data or {}
    history = state.get("log_history", [])
    evaluations: list[Any] = run.evaluations or evaluations_in(history)
    log = [row for row in history if "loss" in row]
    results = run.results or {}
    stops = [{"step": row["step"], "loss": row.get("loss")} for row in run.stops]
    found = {
        "name": folder.resolve().name,
        "finished": "eval_bits_per_byte" in results,
        "step": max([state.get("global_step", 0), *(row["step"] for row in evaluations)]),
        "max_steps": max(0, run.recipe.get("max_steps") or 0) or state.get("max_steps") or None,
        "results": results,
        "scored_step": state.get("best_global_step" if run.recipe.get("load_best_model_at_end") else "global_step"),
        "best": best_of(evaluations),
        "log": log,
        "evaluations": evaluations,
        "samples": run.samples,
        "settings": settings_of(run.recipe),
        "guards": data.get("guards", {}),
        "stops": stops,
        "data": {name: value for name, value in data.items() if name not in ("guards", "began_with")},
        "environment": run.environment or {},
        "missing": run.missing,
        "problems": run.problems + problems,
    }
    return _finite(without_local_paths(found | _totals(log, evaluations, results, state)))


def _last_state(run: Run) -> tuple[TrainerState | dict[str, Any], list[str]]:
    """The state of a finished run, or that of the last checkpoint; and what is wrong with the files of checkpoints."""
    if run.state is not None:
        return run.state, []
    problems: list[str] = []
    try:
        saved_at = [path for path in checkpoints(run.folder) if not leads_outside(path, run.folder)]
    except RunFileError as error:
        return {}, [f"checkpoints: the run folder {error.reason}"]
    for checkpoint in reversed(saved_at):
        saved = Run(checkpoint)
        if saved.state is not None:
            return saved.state, problems
        problems += [f"{checkpoint.name}/{problem}" for problem in saved.problems]
    return {}, problems


def best_of(evaluations: Iterable[EvaluationRow]) -> EvaluationRow | None:
    """The evaluation with the fewest bits per byte."""
    scored = [(bits, row) for row in evaluations if is_number(bits := row.get("eval_bits_per_byte"))]
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def _totals(
    log: list[dict[str, Any]],
    evaluations: list[dict[str, Any]],
    results: Mapping[str, Any],
    state: Mapping[str, Any],
) -> dict[str, Any]:
    """Tokens trained on, seconds of wall clock in training, and tokens per second of the training alone."""
    rows = [*log, *evaluations, state, results]
    tokens = max((row.get("num_input_tokens_seen") or row.get("tokens_seen") or 0 for row in rows), default=0)
    seconds = max((row["elapsed_seconds"] for row in rows if is_number(row.get("elapsed_seconds"))), default=None)
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
            "value": without_local_paths(without_fraction(value), key),
            "default": without_fraction(defaults.get(key)),
            "changed": value != defaults.get(key),
        }
        for key, value in sorted(recipe.items())
    ]
    return sorted(settings, key=lambda setting: not setting["changed"])


def page_of(run: dict[str, Any], figures: list[Drawn]) -> str:
    """The page as HTML. run: as `read_run` gives it."""
    prompts = dict.fromkeys(row["prompt"] for row in run["samples"])
    samples = {prompt: [row for row in run["samples"] if row["prompt"] == prompt] for prompt in prompts}
    return render(
        "report.html",
        run=run,
        figures=figures,
        samples={prompt: spread(rows, SHOWN_SAMPLES) for prompt, rows in samples.items()},
        evaluations=spread(run["evaluations"], SHOWN_EVALUATIONS),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
