"""Make docs/results/demo_stories.json: does the hero of the demo's stories keep the name? Of several seeds.

    python run_clm.py configs/demo.yaml
    python run_clm.py configs/demo.yaml --seed 7 --output_dir runs/demo-7
    python run_clm.py configs/demo.yaml --seed 1 --output_dir runs/demo-1
    for run in demo demo-7 demo-1; do
        python run_evaluation.py runs/$run --presets natural --pairs 20 --output_dir runs/evaluation
    done
    python benchmarks/demo_stories.py runs/demo runs/demo-7 runs/demo-1

It only gathers: the numbers are those in the evaluation.json of each run.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.console import run_command
from tinystories.errors import UserError
from tinystories.provenance import Stopwatch, provenance
from tinystories.run_files import EVALUATION, PROVENANCE, Run


RECORD = Path(__file__).parent.parent / "docs" / "results" / "demo_stories.json"
PRESET, NAMES, LEAST = "natural", "introduced_names", 0.6
METRICS = (NAMES, "seen_8grams", "near_copies")


def main(argv: list[str]) -> None:
    began = Stopwatch()
    parser = argparse.ArgumentParser(description="Gather the evaluations of runs of the demo's recipe.")
    parser.add_argument("runs", nargs="+", type=Path)
    found = [measured(folder) for folder in parser.parse_args(argv).runs]
    origin = provenance(began, [run["seed"] for run in found], data={})
    record = {"provenance": origin, "runs": found, "mean": mean(run["metrics"][NAMES]["value"] for run in found)}
    record |= {"preset": PRESET, "least": LEAST}
    RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(f"{NAMES}: {record['mean']:.2f} in the mean, {RECORD}")


def measured(folder: Path) -> dict[str, Any]:
    """The numbers of one run, of its stories and of people's, and where they come from."""
    run = Run(folder)
    if run.recipe is None or run.evaluation is None or run.evaluation["settings"]["quick"]:
        raise UserError(f"{folder} is no run with a full evaluation.json", f"python run_evaluation.py {folder}")
    evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    session = json.loads((folder / PROVENANCE).read_text(encoding="utf-8").splitlines()[0])
    natural = evaluation["presets"][PRESET]
    return {
        "seed": run.recipe["seed"],
        "provenance": session,
        "settings": evaluation["settings"],
        "metrics": {name: natural["metrics"][name] for name in METRICS},
        "people": {name: natural["human"][name] for name in METRICS},
    }


if __name__ == "__main__":
    run_command(main)
