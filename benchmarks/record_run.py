"""Make docs/results/NAME.json of a finished run, from the files in its folder.

    python benchmarks/record_run.py runs/demo demo

The story in the record is the one that the run printed at its end: same checkpoint, prompt and seed. A run of an
earlier version has no provenance.jsonl: `--commit`, `--date`, `--command` and `--data NAME=FILE` say what is known. The
record names what was told in this way, and what was not recorded.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.console import run_command
from tinystories.errors import UserError
from tinystories.generation.sample import sample_story
from tinystories.provenance import hash_files
from tinystories.run_files import PROVENANCE, Run


ROOT = Path(__file__).parent.parent


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a record of a finished run.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", help="of the record: docs/results/NAME.json")
    for option in ("commit", "date", "command"):
        parser.add_argument(f"--{option}", help="of a run without provenance.jsonl")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE", help="of such a run")
    parser.add_argument("--instructions", nargs="*", help="of the processor of such a run, as avx512_bf16")
    parser.add_argument("--shared", action="store_true", help="such a run shared its machine")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    given = options(argv)
    path = ROOT / "docs" / "results" / f"{given.name}.json"
    path.write_text(json.dumps(record(given), indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(path)


def record(given: argparse.Namespace) -> dict[str, Any]:
    run = Run(given.folder)
    if run.results is None or run.recipe is None or run.data is None or run.environment is None:
        raise UserError(f"{given.folder} is not a finished run: {', '.join([*run.missing, *run.problems])}")
    lines = given.folder / PROVENANCE
    sessions = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.exists() else []
    return {
        "provenance": sessions[0] if sessions else told(given, run),
        "resumed": sessions[1:],
        "parameters": run.environment["parameters"],
        "packing": run.data["packing"],
        "all_results": run.results,
        "story": story(given.folder, run.recipe),
    }


def story(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The story that the run ended with."""
    prompt = next(iter(recipe["sample_prompts"]), "Once upon a time")
    model, tokenizer = load_checkpoint(str(folder))
    text = sample_story(model, tokenizer, prompt, recipe["seed"])
    return {"prompt": prompt, "seed": recipe["seed"], "text": text}


def told(given: argparse.Namespace, run: Run) -> dict[str, Any]:
    """The origin of a run that did not write it: from its files, and from the options of this command."""
    environment, recipe = dict(run.environment or {}), run.recipe or {}
    pairs = dict(pair.split("=", 1) for pair in given.data)
    data = {name: {"source": Path(file).name, **hash_files([Path(file)])} for name, file in pairs.items()}
    libraries = ("python", "torch", "transformers", "tokenizers", "datasets", "accelerate")
    found = {
        "commit": given.commit,
        "uncommitted_changes": None,
        "date": given.date,
        "command": given.command,
        "seed": recipe.get("seed"),
        "data": data or None,
        "machine": {
            "processor": environment.get("device_name"),
            "instructions": given.instructions,
            "cores": environment.get("cores"),
            "threads": environment.get("threads"),
            "memory_gb": environment.get("device_memory_gb"),
            "system": environment.get("platform"),
            "shared": given.shared,
        },
        "versions": {name: environment[name] for name in libraries if name in environment},
        "seconds": None,
        "processor_seconds": None,
    }
    by_hand = [name for name in ("commit", "date", "command", "data") if found[name] is not None]
    return found | {
        "told": [*by_hand, "machine.shared", "machine.instructions"],
        "not_recorded": [k for k in found if found[k] is None],
    }


if __name__ == "__main__":
    run_command(main)
