"""The log of the demo, as docs/long_runs.md shows it.

python benchmarks/training_log.py            # trains (a minute or two), writes the record and the document
python benchmarks/training_log.py --render   # the document only
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, provenance


ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "training_log.json"
DOCUMENT = ROOT / "docs" / "long_runs.md"
MARKS = ("<!-- training log: sample -->", "<!-- training log: end -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="write the document only")
    if not parser.parse_args().render:
        began = Stopwatch()
        record = {"log": log_of_the_demo()}
        record = {"provenance": provenance(began, [42], data={})} | record
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    document = with_sample(DOCUMENT.read_text(encoding="utf-8"), record)
    DOCUMENT.write_text(document, encoding="utf-8", newline="\n")


def log_of_the_demo() -> list[str]:
    """What the run writes to a pipe."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(
            [sys.executable, str(ROOT / "run_clm.py"), str(ROOT / "configs" / "demo.yaml")],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
    if process.returncode:
        sys.exit(process.stderr)
    return process.stderr.splitlines()


def with_sample(document: str, record: dict) -> str:
    """The document with lines of the record between its marks."""
    before, _, rest = document.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    lines = "\n".join(excerpt(record["log"]))
    return f"{before}{MARKS[0]}\n\n```text\n{lines}\n```\n\n{MARKS[1]}{after}"


def excerpt(log: list[str]) -> list[str]:
    """The beginning, an evaluation half-way with a line of steps on both sides, and the end."""
    first = next(place for place, line in enumerate(log) if line.startswith("training: "))
    last = next(place for place, line in enumerate(log) if line.startswith("trained "))
    steps = [place for place in range(first, last) if log[place].startswith("step ")]
    evaluations = [place for place in range(first, last) if log[place].startswith("eval at ")]
    evaluated = evaluations[len(evaluations) // 2]
    begin = max(place for place in steps if place < evaluated)
    end = min(place for place in steps if place > evaluated)
    return [log[first], "...", *log[begin : end + 1], "...", *log[last:]]


if __name__ == "__main__":
    main()
