"""Opens an exported page in node, with the page's own code, to prove without a browser that it is the same model."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tinystories.errors import UserError, one_line


SCRIPT = Path(__file__).parent / "runtime" / "reader.cjs"
OLDEST_NODE = 18


def find_node() -> str | None:
    """The path of node, where one is installed that is new enough for the page's code."""
    node = shutil.which("node")
    if node is None:
        return None
    try:
        process = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.match(r"v(\d+)\.", process.stdout)
    return node if version and int(version[1]) >= OLDEST_NODE else None


class NodeReader:
    """A reader (proof.py) of a page; a context manager, as it is a process."""

    name, exact = "node", True

    def __init__(self, node: str, page: Path):
        self.file = page.name
        self.process = subprocess.Popen(
            [node, str(SCRIPT), str(page)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def check(self) -> None:
        """Raises UserError: what the page checks itself with when it is opened."""
        self._ask(do="check")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._ask(do="encode", text=text)
        return ids

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        tokens: list[int] = self._ask(do="greedy", ids=ids, most=max_new_tokens)
        return tokens

    def logits(self, ids: list[int]) -> np.ndarray:
        """float32 (len(ids), vocab_size)."""
        numbers = np.frombuffer(base64.b64decode(self._ask(do="logits", ids=ids)), dtype="<f4")
        return numbers.reshape(len(ids), -1)

    def _ask(self, **request: Any) -> Any:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            if answer := self.process.stdout.readline():
                return json.loads(answer)
        except OSError:
            pass  # it has ended: its last words say why
        said = one_line(self.process.stderr.read()) or "no reason was given"
        raise UserError(f"{self.file} could not be opened in node: {said[-500:]}")

    def __enter__(self) -> "NodeReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
