"""Measure how good a story model is, in numbers that cannot be fooled, each between its floor and its ceiling.

    python run_evaluation.py runs/demo --quick
    python run_evaluation.py runs/demo --data held-out.txt --train_file stories.txt
    python run_evaluation.py runs/a runs/b someone/model stories260K.bin --data held-out.txt --leaderboard results.jsonl

CHECKPOINT is a folder, a Hub id, or a llama2.c file. It prints a table, writes evaluation.json and the page index.html
to --output_dir, and, where the checkpoint is a folder of our own, its evaluation.json and its model card. What each
number means: docs/evaluation.md. A command that is stopped goes on where it was when it is started again.
"""

import json
import logging
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from tinystories.atomic import write_atomically
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.errors import UserError
from tinystories.evaluation import leaderboard
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.suite import evaluate
from tinystories.evaluation.table import as_text, comparison_as_text
from tinystories.reporting.evaluation_page import write_page
from tinystories.reporting.format import cell
from tinystories.reporting.model_card import refresh_card
from tinystories.run_files import EVALUATION, TRAINER_STATE, read_json


logger = logging.getLogger("tinystories")

# What compares models with different tokenizers, whose stories are not of one length.
ON_THE_LEADERBOARD = ("text_bits_per_byte", "pair_mean_of_rules", "clean_sentences", "missing_determiners")


def main(argv: list[str]) -> None:
    names, arguments = parse(argv)
    output = Path(arguments.output_dir)
    if output.exists() and not output.is_dir():
        raise UserError(f"output_dir {output}: is a file; name a folder")
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
        note_beside_the_weights(Path(name), found)
    if arguments.leaderboard:
        add_to_leaderboard(Path(arguments.leaderboard), results)
    print(f"\nResults: {output / EVALUATION}\nPage: {write_page(results, output)}")


def judged(judgement: dict[str, Any] | None) -> list[str]:
    """What a judge said, as lines; none without a judge."""
    if judgement is None:
        return []
    counts = ", ".join(f"{judgement[name]} {name}" for name in ("graded", "unparsed", "failed"))
    failure = f"; the first failure: {judgement['first_failure']}" if judgement["first_failure"] else ""
    grades = [f"  {name}: {cell(grade, grade['low'] is not None)} of 10" for name, grade in judgement["grades"].items()]
    return [f"judge {judgement['asked_model']}: {counts}{failure}", *grades, ""]


def parse(argv: list[str]) -> tuple[list[str], EvaluationArguments]:
    parser = StrictParser(
        (EvaluationArguments,), prog="run_evaluation.py", description="Measure how good a story model is."
    )
    parser.add_argument("checkpoints", nargs="+", help="folders, Hub ids or llama2.c files", metavar="CHECKPOINT")
    parser.check(argv)
    arguments, other = parser.build(argv)
    if len(set(other.checkpoints)) < len(other.checkpoints):
        raise UserError("a checkpoint is named twice")
    return other.checkpoints, arguments


def note_beside_the_weights(folder: Path, found: dict[str, Any]) -> None:
    """The checkpoint says of itself what was measured, unless it is not a run's or somebody edited its card."""
    if not (folder / TRAINER_STATE).exists():
        return
    known = read_json(folder / EVALUATION, logger.warning)
    if found["settings"]["quick"] and known and not known["settings"]["quick"]:
        logger.warning("%s: keeps its full evaluation, this one was quick", folder)
        return
    copies = [copy | {"training_story": None} for copy in found["copies"]]  # it is published: no training data
    write_atomically(folder / EVALUATION, to_json(found | {"copies": copies}))
    model, _ = load_checkpoint(str(folder))
    if not refresh_card(folder, model):
        logger.warning("%s: its card was edited, or is not that of a run: it stays as it is", folder)


def add_to_leaderboard(path: Path, results: list[dict[str, Any]]) -> None:
    for found in results:
        metrics = {name: found["metrics"][name] for name in ON_THE_LEADERBOARD if name in found["metrics"]}
        line = leaderboard.new_line(
            found["model"]["model"], found["model"]["parameters"], found["data"], metrics, found["fingerprint"]
        )
        lines = leaderboard.add(path, line)
    write_atomically(path.with_suffix(".md"), leaderboard.markdown(lines))
    leaderboard.draw(lines, path.parent)
    print(f"\n{leaderboard.markdown(lines)}\nLeaderboard: {path.with_suffix('.md')}")


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
