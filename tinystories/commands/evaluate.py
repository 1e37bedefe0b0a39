"""Measure how good a story model is, with confidence intervals, each number between its floor and its ceiling.

    python run_evaluation.py runs/demo --quick
    python run_evaluation.py runs/demo --data held-out.txt --train_file stories.txt
    python run_evaluation.py runs/a runs/b someone/model stories260K.bin --data held-out.txt --leaderboard results.jsonl

CHECKPOINT is a folder, a Hub id, or a llama2.c file. It prints a table, writes evaluation.json and the page index.html
to --output_dir, and, where the checkpoint is a folder of our own, its evaluation.json and its model card. What each
number means: docs/evaluation.md. A command that was stopped continues when it is started again.
"""

from pathlib import Path

from tinystories.commands.shortest import require_arguments
from tinystories.config.familiar import EVALUATE
from tinystories.config.packaged import find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import command_name, program_name
from tinystories.errors import UserError
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.output_file import check_output_file, check_output_folder


def main(argv: list[str]) -> None:
    names, arguments = parse(argv)
    from tinystories.evaluation.run import run  # seconds of imports, for a command line that is understood

    run(names, arguments)


def parse(argv: list[str]) -> tuple[list[str], EvaluationArguments]:
    require_arguments("evaluate", argv)
    parser = StrictParser(
        (EvaluationArguments,),
        "evaluate",
        EVALUATE,
        prog=program_name("evaluate"),
        usage=f"{command_name('evaluate')} CHECKPOINT [CHECKPOINT ...] [--key value ...]",
        description="Measure how good a story model is.",
    )
    parser.add_argument(
        "checkpoints", nargs="+", help="folders, Hub ids, llama2.c files or boxed", metavar="CHECKPOINT"
    )
    parser.check(argv)
    arguments, other = parser.build(argv)
    if len(set(other.checkpoints)) < len(other.checkpoints):
        raise UserError("a checkpoint is named twice")
    check_output_folder(arguments.output_dir)
    if arguments.leaderboard:
        check_leaderboard(Path(arguments.leaderboard))
    return [find_checkpoint(name) for name in other.checkpoints], arguments


def check_leaderboard(path: Path) -> None:
    """Raises UserError if the results, or the table beside them, could not be written."""
    table = path.with_suffix(".md")
    if table == path:
        raise UserError(f"leaderboard {path}: is where its table is written", "name a .jsonl file")
    if path.parent.is_dir():
        check_output_file(str(path), "leaderboard")
        check_output_file(str(table), "leaderboard")
    else:
        check_output_folder(path.parent, "leaderboard")
