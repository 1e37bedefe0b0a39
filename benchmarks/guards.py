"""What the guards cost: processor time of each, on a run of the laptop recipe with few steps.

    python benchmarks/guards.py --train_file train.txt
    python benchmarks/guards.py --render

Writes docs/results/guards.json and, from it, the table in docs/guards.md; --render writes the table only. The run is
not compiled, and what it trains is removed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "guards.json"
DOCUMENT = ROOT / "docs" / "guards.md"
RECIPE = "configs/tinystories-cpu.yaml"
SHORT = {"max_steps": 2, "torch_compile": False, "eval_strategy": "no", "save_strategy": "no"}
SHORT |= {"load_best_model_at_end": False, "disable_tqdm": True, "logging_steps": 1, "log_level": "debug"}
PASSED = re.compile(r"^guard passed: ([^:]+): .*\(([\d.]+) s\)$", re.MULTILINE)
FIRST = "\nguards: "  # the summary, after those before the first step
MARKS = ("<!-- guards: costs -->", "<!-- guards: end -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file")
    parser.add_argument("--render", action="store_true", help="write the table only")
    arguments = parser.parse_args()
    if not arguments.render:
        found = measure(arguments.train_file)
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    DOCUMENT.write_text(with_numbers(DOCUMENT.read_text(encoding="utf-8"), record), encoding="utf-8", newline="\n")


def measure(train_file: str) -> dict:
    began = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        settings = SHORT | {"train_file": train_file, "output_dir": f"{folder}/run"}
        options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        process = subprocess.run(
            [sys.executable, str(ROOT / "run_clm.py"), str(ROOT / RECIPE), *options],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    if process.returncode:
        sys.exit(process.stderr)
    before, _, after = process.stderr.partition(FIRST)
    costs = {"before the first step": before, "at the end": after.partition("weights: ")[2]}
    origin = {"train": {"source": Path(train_file).name, **hash_files([Path(train_file)])}}
    return {"provenance": provenance(began, [42], origin)} | {
        "recipe": RECIPE,
        "seconds": {when: {name: float(cost) for name, cost in PASSED.findall(log)} for when, log in costs.items()},
    }


def with_numbers(document: str, record: dict) -> str:
    """The document with the table of the record between its marks."""
    machine = record["provenance"]["machine"]
    lines = []
    for when, seconds in record["seconds"].items():
        slow = [
            f"{name} {cost:.1f}" for name, cost in sorted(seconds.items(), key=lambda item: -item[1]) if cost >= 0.1
        ]
        lines.append(f"| {when} | {sum(seconds.values()):.1f} | {', '.join(slow)} |")
    table = ["| guards | seconds, all | seconds, the slowest |", "|---|---:|---|", *lines]
    before, _, rest = document.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    return "\n".join(
        [before + MARKS[0], "", *table, "", f"One thread of an {machine['processor']}.", "", MARKS[1] + after]
    )


if __name__ == "__main__":
    main()
