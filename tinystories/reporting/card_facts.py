"""What the files of a checkpoint, and of the run folder above it, say about it: the facts of its model card."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from tinystories.reporting.format import is_number
from tinystories.run_files import Environment, Evaluation, EvaluationRow, Run, SampleRow, evaluations_in, read_json


logger = logging.getLogger(__name__)

SHOWN_SAMPLES = 3  # of an evaluation
FINAL = {"stories", "loss", "perplexity", "bits_per_byte", "tokens", "bytes"}  # of the score of all validation stories


@dataclass
class CardFacts:
    """What a card says about a checkpoint, beside what the model itself says; None or empty where it is not known.

    recipe, data: as in recipe.json and data_report.json. step: of the last optimizer step. best_step: of the weights
    that a finished run has kept, where load_best_model_at_end chose them. energy_method: how `energy_kwh` was found, or
    why it was not. energy_counted: the sums behind it. log: rows of the training loss. final: the scores of all
    validation stories, by the names of all_results.json without "eval_". evaluation: as in evaluation.json. stored:
    number format of the weights.
    """

    recipe: dict[str, Any]
    data: Mapping[str, Any]
    step: int
    epoch: float | None = None
    best_step: int | None = None
    tokens_seen: int | None = None
    training_flops: int | None = None
    elapsed_seconds: float | None = None
    energy_kwh: float | None = None
    energy_method: str | None = None
    energy_counted: dict[str, Any] | None = None
    evaluated_stories: int = 0
    last_evaluation: dict[str, Any] | None = None
    curve: list[EvaluationRow] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] | None = None
    environment: Environment | None = None
    samples: list[SampleRow] = field(default_factory=list)
    evaluation: Evaluation | None = None
    stored: str = "float32"


def read_facts(folder: str | Path) -> CardFacts | None:
    """What the files of a checkpoint, and of the run folder above it, say about it; None if no run made it.

    A damaged file is named in the log, and counts as absent.
    """
    run = Run(folder)
    recipe, data, state = run.recipe, run.data, run.state
    facts = None
    if recipe is not None and data is not None and state is not None:
        results, step = run.results or {}, state["global_step"]
        final = {key.removeprefix("eval_"): value for key, value in results.items() if key.startswith("eval_")}
        history = state.get("log_history", [])
        scored = evaluated(history)
        facts = CardFacts(
            recipe=recipe,
            data=data,
            step=step,
            epoch=state.get("epoch"),
            best_step=state.get("best_global_step") if recipe.get("load_best_model_at_end") else None,
            tokens_seen=state.get("num_input_tokens_seen"),
            training_flops=results.get("training_flops"),
            elapsed_seconds=results.get("elapsed_seconds"),
            energy_kwh=results.get("energy_kwh"),
            energy_method=results.get("energy_method"),
            energy_counted=results.get("energy_counted"),
            evaluated_stories=int(min(data["validation_stories"], recipe.get("max_eval_samples") or math.inf)),
            last_evaluation=scored[-1] if scored else None,
            curve=[
                row for row in run.evaluations or evaluations_in(history) if row["step"] <= step and _has_numbers(row)
            ],
            log=[row for row in history if is_number(row.get("loss"))],
            final=final if final.keys() >= FINAL else None,
            environment=run.environment,
            samples=[row for row in run.samples if row["step"] <= step],
            evaluation=run.evaluation,
            stored=str((read_json(Path(folder) / CONFIG_NAME, logger.warning) or {}).get("dtype") or "float32"),
        )
    for problem in run.problems:
        logger.warning("%s: %s", folder, problem)
    return facts


def evaluated(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations whose scores are all finite numbers."""
    scores = ("eval_loss", "eval_perplexity", "eval_bits_per_byte")
    return [row for row in log_history if all(is_number(row.get(score)) for score in scores)]


def _has_numbers(row: EvaluationRow) -> bool:
    """Whether all that the card shows of an evaluation is known: a number that was not finite is null."""
    return None not in (row.get("tokens_seen"), row.get("eval_loss"), row.get("eval_bits_per_byte"))


def shown_samples(facts: CardFacts) -> list[dict[str, Any]]:
    """[{"prompt", "text", "seed", ...}] that the card shows, the continuation as `text`: those of run_evaluation.py, or
    what the run wrote at the step of these weights. None is chosen for what it says."""
    if facts.evaluation:
        return list(facts.evaluation["samples"][facts.evaluation["preset"]][:SHOWN_SAMPLES])
    rows = [row for row in facts.samples if row["step"] == shown_step(facts) and row["text"].startswith(row["prompt"])]
    return [{**row, "text": row["text"][len(row["prompt"]) :]} for row in rows]


def shown_step(facts: CardFacts) -> int:
    """The step of the weights that the card describes: those of a finished run may be of its best evaluation."""
    return (facts.best_step if facts.final else None) or facts.step
