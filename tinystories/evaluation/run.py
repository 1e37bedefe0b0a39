"""An evaluation from the names of checkpoints to everything that is written about them."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from tinystories.atomic import write_atomically
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.packaged import is_boxed
from tinystories.evaluation import leaderboard
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.overall import OVERALL
from tinystories.evaluation.suite import evaluate
from tinystories.evaluation.table import as_text, comparison_as_text
from tinystories.reporting.evaluation_page import write_page
from tinystories.reporting.format import cell
from tinystories.reporting.model_card import refresh_card
from tinystories.run_files import EVALUATION, TRAINER_STATE, Run


logger = logging.getLogger("tinystories")

# What can be compared between models with different tokenizers and stories of different lengths.
ON_THE_LEADERBOARD = ("text_bits_per_byte", "pair_mean_of_rules", "clean_sentences", "missing_determiners")


def run(names: list[str], arguments: EvaluationArguments) -> None:
    """Evaluate the checkpoints `names`; print the tables; write evaluation.json, the page, cards and leaderboard.

    Raises:
        UserError: a checkpoint, text or setting that cannot be used.
    """
    output = Path(arguments.output_dir)
    transformers_logging.set_verbosity_error()  # it advises about generation settings that are the presets' own
    results = evaluate(names, arguments)
    for found in results:
        print(f"\n{found['model']['model']}: {found['model']['parameters']:,} parameters")
        print(*as_text(found["table"]), sep="\n")
        print(*judged(found.get("judge")), sep="\n", end="")
    if len(results) > 1:
        print(
            "",
            *comparison_as_text([found["model"]["model"] for found in results], [f["table"] for f in results]),
            sep="\n",
        )
    write_atomically(output / EVALUATION, to_json(results))
    for name, found in zip(names, results, strict=True):
        save_beside_the_weights(Path(name), found)
    if arguments.leaderboard:
        add_to_leaderboard(Path(arguments.leaderboard), results)
    print(f"\nResults: {output / EVALUATION}\nPage: {write_page(results, output)}")


def judged(judgement: dict[str, Any] | None) -> list[str]:
    """The judge's grades as lines; no line without a judge."""
    if judgement is None:
        return []
    counts = ", ".join(f"{judgement[name]} {name}" for name in ("graded", "unparsed", "failed"))
    failure = f"; the first failure: {judgement['first_failure']}" if judgement["first_failure"] else ""
    grades = [f"  {name}: {cell(grade, grade['low'] is not None)} of 10" for name, grade in judgement["grades"].items()]
    return [f"judge {judgement['asked_model']}: {counts}{failure}", *grades, ""]


def save_beside_the_weights(folder: Path, found: dict[str, Any]) -> None:
    """Write the result into the checkpoint and on its card, unless it is not of a run, its card was edited, or it came
    with the package.
    """
    if is_boxed(folder) or not (folder / TRAINER_STATE).exists():
        return
    run = Run(folder)
    known = run.evaluation
    for problem in run.problems:
        logger.warning("%s: %s", folder, problem)
    if found["settings"]["quick"] and known and not known["settings"]["quick"]:
        logger.warning("%s: its full evaluation is kept, this one was quick", folder)
        return
    copies = [copy | {"training_story": None} for copy in found["copies"]]  # it is published: no training data
    write_atomically(folder / EVALUATION, to_json(found | {"copies": copies}))
    model, _ = load_checkpoint(str(folder))
    if not refresh_card(folder, model):
        logger.warning("%s: its card was edited, or is not that of a run: it is left as it is", folder)


def add_to_leaderboard(path: Path, results: list[dict[str, Any]]) -> None:
    for found in results:
        metrics = {name: found["metrics"][name] for name in ON_THE_LEADERBOARD if name in found["metrics"]}
        if OVERALL.name in found["metrics"]:  # numbers of different critics are different columns
            metrics[f"{OVERALL.name}_by_critic_{found['critic']['model']}"] = found["metrics"][OVERALL.name]
        line = leaderboard.new_line(
            found["model"]["model"], found["model"]["parameters"], found["data"], metrics, found["fingerprint"]
        )
        lines = leaderboard.add(path, line)
    write_atomically(path.with_suffix(".md"), leaderboard.markdown(lines))
    leaderboard.draw(lines, path.parent)
    print(f"\n{leaderboard.markdown(lines)}\nLeaderboard: {path.with_suffix('.md')}")


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
