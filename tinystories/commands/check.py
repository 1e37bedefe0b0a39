"""Find out what is wrong with a recipe, a model or a text, why, and what to do.

    python check_run.py configs/demo.yaml       will this run work, and how long?
    python check_run.py configs/demo.yaml --predict    what will it score?
    python check_run.py runs/demo               what is wrong with this model?
    python check_run.py --data stories.txt      what is wrong with this text?
    python check_run.py --data stories.txt --clean out.txt  and write a clean copy

A file that ends in .yaml, .yml or .json is a recipe, as is the name of a
packaged recipe; any of its keys can be overridden. Any other name is a
checkpoint, a folder or a Hub id. `--output_file FILE` writes the findings as
JSON too. `--help` after any of the three lists its options. Exit status: 0 if
nothing is wrong, 1 otherwise.
"""

import os
import sys
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinystories.commands.shortest import require_arguments
from tinystories.config.advice import nearest
from tinystories.config.familiar import CHECK_MODEL, CHECK_TEXT
from tinystories.config.keys import DataArguments, QualityArguments, ReadingArguments
from tinystories.config.packaged import find_checkpoint, packaged_recipe, recipe_names
from tinystories.config.parser import StrictParser
from tinystories.config.recipe import check_keys
from tinystories.console import check_printed, command_name, program_name
from tinystories.errors import UserError
from tinystories.output_file import check_output_file, write_output_file


if TYPE_CHECKING:
    from tinystories.checks.preflight import Finding
    from tinystories.data.quality import Examined

RECIPES = (".yaml", ".yml", ".json")
PARTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def main(argv: list[str]) -> None:
    require_arguments("check", argv)
    if argv[0] in ("-h", "--help"):
        print((__doc__ or "").replace("python check_run.py", command_name("check")))
        return
    name = argv[0]
    if Path(name).name in PARTS:
        raise UserError(f"{name} is part of a checkpoint and not a recipe", f"give the folder, {Path(name).parent}")
    if name.startswith("-"):
        healthy = check_data(argv)
    elif is_recipe(name):
        healthy = check_recipe(argv)
    else:
        healthy = check_model(argv)
    check_printed()
    if not healthy:
        sys.exit(1)


def is_recipe(name: str) -> bool:
    """Whether `name` is that of a recipe file or, where no file or folder has that name, of a packaged recipe."""
    if Path(name).suffix.lower() in RECIPES:
        return True
    return not os.path.exists(name) and packaged_recipe(name) is not None


def check_recipe(argv: list[str]) -> bool:
    parser = StrictParser((), add_help=False)
    parser.add_argument("--output_file", help="write the findings to this JSON file")
    parser.add_argument("--predict", action="store_true", help="predict score and time only, for any output_dir")
    parser.add_argument(
        "--fit", type=Path, help="a scaling_law.json of benchmarks/scaling.py (default: the project's own)"
    )
    arguments, recipe = parser.parse_known_args(argv)
    check_output_file(arguments.output_file)
    check_keys(recipe, "check")
    from tinystories.checks import prediction, preflight  # seconds of imports, for a recipe that is understood

    shown: Collection[str] = preflight.PREDICTIONS if arguments.predict else preflight.CHECKS
    left_out = preflight.NOT_PREDICTING if arguments.predict else ()

    def report(finding: "Finding") -> None:
        if finding.name in shown or finding.status == "FAIL":
            print(finding, flush=True)

    result = preflight.preflight(recipe, report, left_out, arguments.fit or prediction.FIT)
    write_output_file(arguments.output_file, result)
    if arguments.predict:
        return result["ready"] and "refused" not in result["prediction"]
    print("ready" if result["ready"] else "not ready")
    return result["ready"]


def check_model(argv: list[str]) -> bool:
    description = "Find out what is wrong with a model. Exit status: 0 if nothing is wrong, 1 otherwise."
    parser = StrictParser(
        (ReadingArguments,), "check", CHECK_MODEL, prog=program_name("check"), description=description
    )
    parser.add_argument("checkpoint", help="folder, Hub id or boxed")
    parser.add_argument("--revision", help="a branch, tag or commit of a Hub id")
    parser.add_argument("--data", help="a file of held-out stories (default: those of its run)")
    parser.add_argument("--prompt", help="show the likeliest tokens after this")
    parser.add_argument("--stories", type=int, default=200, help="read at most this many")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the accelerator if there is one)")
    parser.add_argument("--output_file", help="write the findings to this JSON file")
    arguments = vars(parser.check(argv))
    reading = ReadingArguments(**{item.name: arguments.pop(item.name) for item in fields(ReadingArguments)})
    output_file = arguments.pop("output_file")
    check_output_file(output_file)
    if arguments["stories"] < 1:
        raise UserError(f"stories must be at least 1, got {arguments['stories']}")
    import torch  # seconds of imports, for a command line that is understood

    from tinystories.checks.diagnosis import describe, diagnose

    arguments["checkpoint"] = find_checkpoint(arguments["checkpoint"])
    arguments["device"] = arguments["device"] or torch.accelerator.current_accelerator() or "cpu"
    try:
        result = diagnose(**arguments, reading=reading)
    except UserError as error:
        recipe = None if os.path.exists(argv[0]) else nearest(argv[0], recipe_names())
        raise UserError(str(error), f"or did you mean the recipe {recipe}?" if recipe else None) from error
    print(*describe(result), sep="\n")
    write_output_file(output_file, result)
    return result["verdict"] == "fine"


def check_data(argv: list[str]) -> bool:
    parser = StrictParser(
        (QualityArguments, DataArguments),
        "check",
        CHECK_TEXT,
        prog=program_name("check"),
        usage=f"{command_name('check')} --data SOURCE [--clean OUT] [--key value ...]",
        description="Check a text, story by story.",
    )
    parser.add_argument("--output_file", help="write the findings to this JSON file")
    parser.check(argv)
    quality, data, other = parser.build(argv)
    check_output_file(other.output_file)
    from tinystories.data.quality import check_target, describe, examine  # seconds of imports

    if quality.clean is not None:
        check_target(quality)
    examined = examine(quality, data)
    print(*describe(examined.report), sep="\n")
    if quality.clean is not None:
        write_copy(examined, quality)
    write_output_file(other.output_file, examined.report)
    return quality.clean is not None or not (examined.report["problems"] or examined.report["rows_not_read"])


def write_copy(examined: "Examined", quality: QualityArguments) -> None:
    """Write the clean copy, add what was dropped to the report, and print it."""
    from tinystories.data.quality import write_clean_copy

    copy: dict[str, Any] = write_clean_copy(examined, quality)
    examined.report["clean_copy"] = copy
    reasons = ", ".join(f"{number:,} {name}" for name, number in copy["dropped_for"].items())
    print(
        f"{copy['file']}: {copy['stories']:,} stories, {copy['repaired']:,} of them repaired; "
        f"{copy['dropped']:,} dropped" + (f" ({reasons})" if reasons else "")
    )
