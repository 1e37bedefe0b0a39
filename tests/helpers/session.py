"""Commands one after another in forked processes of the Python that runs this module, for an environment of its own.

    python -m helpers.session

Each line of stdin is a JSON object: `words`, the script and its arguments, and options of `ForkedCommand`. A line of
JSON comes back for each: `status`, `stdout`, `stderr`; nothing of a command with a `log`, which is not waited for.
forked.py says what is spared: the imports of libraries.
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

    def run(self, *words, folder: Path, code: str = "") -> subprocess.CompletedProcess:
        answer = self._ask(words=words, cwd=folder, code=code)
        return subprocess.CompletedProcess(words, answer["status"], answer["stdout"], answer["stderr"])

    def start(self, *words, folder: Path, log: Path) -> None:
        """A command that goes on until the session ends, with both of its outputs in `log`."""
        log.touch()
        self._ask(words=words, cwd=folder, log=log)

    def _ask(self, **request) -> dict:
        print(json.dumps(request, default=str), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def main() -> None:
    forked.ENVIRONMENT["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
    started = []
    for line in sys.stdin:
        request = json.loads(line)
        command, answer = forked.ForkedCommand(*request.pop("words"), **request), {}
        if "log" in request:
            started.append(command)
        else:
            done = command.wait()
            answer = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        print(json.dumps(answer), flush=True)
    for command in started:
        command.kill()


if __name__ == "__main__":
    main()
