"""How long each command takes to answer `--help` and a mistyped key: processor seconds of the whole process.

    python benchmarks/command_start.py --write
    python benchmarks/command_start.py --against ../earlier --against_python ../earlier-venv/bin/python --write

Processor time, user and system, does not depend on what else the machine does as much as the clock does. One call of
each command warms the disk cache; the median of the next `--rounds` is reported. (On Windows Python does not know the
processor time of a child, and reports zeros.)
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, provenance


ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "command_start.json"
MISTYPED = {
    "run_clm.py": ["configs/demo.yaml", "--learnin_rate", "1"],
    "train_tokenizer.py": ["--train_file", "stories.txt", "--vocab_sise", "300"],
    "run_generation.py": ["runs/demo", "Once", "--sed", "1"],
    "run_evaluation.py": ["runs/demo", "--quik"],
    "run_server.py": ["runs/demo", "--prt", "80"],
    "check_run.py": ["runs/demo", "--storys", "5"],
    "report_run.py": ["runs/demo", "--output_dr", "page"],
    "export_model.py": ["runs/demo", "--formt", "llama"],
    "push_to_hub.py": ["docs", "me/name", "--tagg", "v1"],
}
LIBRARIES = ("torch", "transformers", "datasets")
VERSIONS = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {LIBRARIES}}}))"


def processor_seconds(command: list[str], folder: Path, succeeds: bool) -> float:
    before = os.times()
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    after = os.times()
    if succeeds != (process.returncode == 0) or "Traceback" in process.stderr:
        raise SystemExit(f"{command} in {folder} ended with {process.returncode}:\n{process.stderr[-2000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(python: str, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Median processor seconds of each command of the checkout `folder`: {script: {"help", "mistyped_key"}}."""
    seconds = {}
    for script, mistyped in MISTYPED.items():
        help_times, mistake_times = [], []
        for _ in range(rounds + 1):
            help_times.append(processor_seconds([python, script, "--help"], folder, succeeds=True))
            mistake_times.append(processor_seconds([python, script, *mistyped], folder, succeeds=False))
        seconds[script] = {
            "help": round(median(help_times[1:]), 2),
            "mistyped_key": round(median(mistake_times[1:]), 2),
        }
        print(f"{script}: {seconds[script]}", file=sys.stderr)
    return seconds


def describe(python: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Commit, versions and times of one checkout."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    versions = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    return {
        "commit": commit.stdout.strip() or None,
        "versions": json.loads(versions.stdout),
        "processor_seconds": measure(python, folder, rounds),
    }


def table(result: dict[str, Any]) -> str:
    """One row a command; with --against, the earlier times in brackets."""
    now = result["this"]["processor_seconds"]
    before = result.get("against", {}).get("processor_seconds")
    lines = ["| command | `--help`, s | mistyped key, s |", "|---|---|---|"]
    for script, times in now.items():
        cells = [f"{times[k]:.2f}" + (f" ({before[script][k]:.2f})" if before else "") for k in times]
        lines.append(f"| {script} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout, measured too")
    parser.add_argument("--against_python", default=sys.executable, help="the interpreter for that one")
    parser.add_argument("--write", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    given = parser.parse_args()
    began = Stopwatch()
    result: dict[str, Any] = {"rounds": given.rounds, "this": describe(sys.executable, ROOT, given.rounds)}
    if given.against is not None:
        result["against"] = describe(given.against_python, given.against.resolve(), given.rounds)
    print(table(result))
    if given.write:
        result = {"provenance": provenance(began, seed=[], data={})} | result
        RECORD.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
