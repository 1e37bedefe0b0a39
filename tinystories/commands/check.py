"""Look before a run, after a run, and at the text: what is wrong, why, and what to do.

    python check_run.py configs/demo.yaml                    will this run work, and how long will it take?
    python check_run.py runs/demo                            what is wrong with this model, if anything?
    python check_run.py --data stories.txt                   what is wrong with this text?
    python check_run.py --data stories.txt --clean out.txt   the same, and a copy without it

A file that ends in .yaml, .yml or .json is a recipe, and any of its keys can be overridden; what is no option is a
checkpoint, a folder or a Hub id. `--output_file FILE` writes the findings as JSON too. `--help` after any of the three
tells its options. Exit status: 0 if all is well, 1 if not.
"""

import sys
from pathlib import Path

import torch

from tinystories.checks import diagnosis
from tinystories.checks.preflight import preflight
from tinystories.config.arguments import DataArguments
from tinystories.config.parser import StrictParser
from tinystories.data import quality as data_quality
from tinystories.errors import UserError
from tinystories.output_file import check_output_file, write_output_file


RECIPES = (".yaml", ".yml", ".json")
PARTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    if Path(argv[0]).name in PARTS:
        raise UserError(f"{argv[0]} is part of a checkpoint and no recipe: give the folder, {Path(argv[0]).parent}")
    if Path(argv[0]).suffix.lower() in RECIPES and not argv[0].startswith("-"):
        healthy = check_recipe(argv)
    elif not argv[0].startswith("-"):
        healthy = check_model(argv)
    else:
        healthy = check_data(argv)
    if not healthy:
        sys.exit(1)


def check_recipe(argv: list[str]) -> bool:
    parser = StrictParser((), add_help=False)
    parser.add_argument("--output_file")
    arguments, recipe = parser.parse_known_args(argv)
    check_output_file(arguments.output_file)
    result = preflight(recipe, report=lambda finding: print(finding, flush=True))
    write_output_file(arguments.output_file, result)
    print("ready" if result["ready"] else "not ready")
    return result["ready"]


def check_model(argv: list[str]) -> bool:
    parser = StrictParser(
        (), prog="check_run.py", description="Find out what is wrong with a model. Exit status: 0 fine"
    )
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--revision", help="a branch, tag or commit of a Hub id")
    parser.add_argument("--data", help="a file of held-out stories (default: those of its run)")
    parser.add_argument("--prompt", help="show the likeliest tokens after this")
    parser.add_argument("--stories", type=int, default=200, help="read at most so many")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the accelerator if there is one)")
    parser.add_argument("--output_file", help="write the findings to this JSON file")
    arguments = vars(parser.check(argv))
    output_file = arguments.pop("output_file")
    check_output_file(output_file)
    if arguments["stories"] < 1:
        raise UserError(f"stories must be at least 1, got {arguments['stories']}")
    arguments["device"] = arguments["device"] or torch.accelerator.current_accelerator() or "cpu"
    result = diagnosis.diagnose(**arguments)
    print(*diagnosis.describe(result), sep="\n")
    write_output_file(output_file, result)
    return result["verdict"] == "fine"


def check_data(argv: list[str]) -> bool:
    parser = StrictParser(
        (data_quality.QualityArguments, DataArguments),
        prog="check_run.py",
        usage="python check_run.py --data SOURCE [--clean OUT] [--output_file FILE] [--key value ...]",
        description="Look at a text, story by story.",
    )
    parser.add_argument("--output_file", help="write the findings to this JSON file")
    parser.check(argv)
    quality, data, other = parser.build(argv)
    check_output_file(other.output_file)
    if quality.clean is not None:
        data_quality.check_target(quality)
    examined = data_quality.examine(quality, data)
    result = examined.report
    print(*data_quality.describe(result), sep="\n")
    if quality.clean is not None:
        copy = result["clean_copy"] = data_quality.write_clean_copy(examined, quality)
        reasons = ", ".join(f"{number:,} {name}" for name, number in copy["dropped_for"].items())
        print(
            f"{copy['file']}: {copy['stories']:,} stories, {copy['repaired']:,} of them repaired; "
            f"{copy['dropped']:,} dropped" + (f" ({reasons})" if reasons else "")
        )
    write_output_file(other.output_file, result)
    return quality.clean is not None or not (result["problems"] or result["rows_not_read"])
