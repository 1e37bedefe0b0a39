"""Commands one after another in forked processes of the Python that runs this module, for an environment of its own.

    python -m helpers.session

Each line of stdin is a JSON object: `words`, the script and its arguments, and `folder`, where it runs. A line of JSON
comes back for each: `status`, `stdout`, `stderr`. forked.py says what is spared: the imports of libraries.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import forked


class Session:
    """The other end: starts this module in an installation (helpers/installation.py) and sends it commands."""

    def __init__(self, installation, checkout: Path, **environment: str):
        self.process = subprocess.Popen(
            [installation.python, "-m", "helpers.session"],
            cwd=checkout,
            env=installation.environment | environment | {"PYTHONPATH": str(checkout / "tests")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *words, folder: Path) -> subprocess.CompletedProcess:
        request = {"words": [str(word) for word in words], "folder": str(folder)}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(words, answer["status"], answer["stdout"], answer["stderr"])

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def main() -> None:
    from helpers.runs import run_command  # here: forked processes import this module too, and nothing of ours by it

    forked.ENVIRONMENT["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
    for line in sys.stdin:
        request = json.loads(line)
        done = run_command(*request["words"], cwd=request["folder"])
        answer = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
