"""Look before a run, after a run, and at the text: what is wrong, why, and what to do.

    python check_run.py configs/demo.yaml                    will this run work, and how long will it take?
    python check_run.py runs/demo                            what is wrong with this model, if anything?
    python check_run.py --data stories.txt                   what is wrong with this text?
    python check_run.py --data stories.txt --clean out.txt   and write a copy without it

A file that ends in .yaml, .yml or .json is a recipe, and any of its keys can be overridden. Anything else is a
checkpoint: a folder or a Hub id. Exit status: 0 if all is well, 1 if not.
"""

import json
import sys
from pathlib import Path

from tinystories.console import run_command
from tinystories.errors import UserError
from tinystories.preflight import preflight
from tinystories.recipe import OneLineParser


RECIPES = (".yaml", ".yml", ".json")


def main(argv: list[str]) -> None:
    if argv and Path(argv[0]).suffix.lower() in RECIPES and not argv[0].startswith("-"):
        healthy = check_recipe(argv)
    else:
        raise UserError("not yet")
    if not healthy:
        sys.exit(1)


def check_recipe(argv: list[str]) -> bool:
    parser = OneLineParser((), add_help=False)
    parser.add_argument("--output_file")
    arguments, recipe = parser.parse_known_args(argv)
    check_place(arguments.output_file)
    result = preflight(recipe, report=lambda finding: print(finding, flush=True))
    write_result(arguments.output_file, result)
    print("ready" if result["ready"] else "not ready")
    return result["ready"]


def check_place(output_file: str | None) -> None:
    """Asked first, not after minutes of work."""
    if output_file and not Path(output_file).resolve().parent.is_dir():
        raise UserError(f"{Path(output_file).parent}: no such folder for the output file")


def write_result(output_file: str | None, result: dict) -> None:
    if output_file:
        text = json.dumps(result, indent=2, ensure_ascii=False)
        Path(output_file).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
