"""transformers.js in node, as a program that opens exported ONNX files, where both are installed.

It is looked for where node looks: in the folders of NODE_PATH, and in `node_modules` of the working directory and of
the folders above it.
"""

import base64
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinystories.errors import one_line
from tinystories.exporting.proof import ProofError


logger = logging.getLogger(__name__)

LIBRARY = Path("@huggingface", "transformers")
PROGRAM = Path(__file__).with_suffix(".mjs")


def find_transformers_js() -> tuple[str, Path] | None:
    """The program node and the folder of the library; None if one of them is missing."""
    node, here = shutil.which("node"), Path.cwd()
    named = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    for folder in [*named, *(parent / "node_modules" for parent in (here, *here.parents))]:
        if node and (folder / LIBRARY / "package.json").is_file():
            return node, (folder / LIBRARY).resolve()
    return None


@contextmanager
def opened_by_transformers_js(
    folder: Path, file: str, dtype: str, eos_token_id: int | None
) -> Iterator["TransformersJs | None"]:
    """A reader of `file` in `folder`, in a process that ends with the context; None where there is no transformers.js.

    transformers.js takes the name of the folder for a name on the Hub: letters, digits, `-`, `_` and `.`.

    Raises:
        ProofError: transformers.js runs and cannot open the file.
    """
    found = find_transformers_js()
    if found is None:
        yield None
        return
    node, library = found
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [node, PROGRAM, library, folder.resolve(), dtype, str(eos_token_id)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            )
        except OSError as error:
            logger.warning("%s was not opened by transformers.js: %s cannot be run (%s)", file, node, error.strerror)
            yield None
            return
        with process:  # closes its stdin, at which it ends, and waits for it
            version = process.stdout.readline().strip() if process.stdout else ""
            if not version:
                logger.warning("%s was not opened by transformers.js, which does not start: %s", file, _last(errors))
            yield TransformersJs(process, errors, file, dtype, version) if version else None


def _last(errors: BinaryIO) -> str:
    """What a failed process wrote at the end, on one line."""
    errors.seek(0)
    return one_line(errors.read().decode(errors="replace"))[-300:]


class TransformersJs:
    """A `Reader` through transformers.js, with its tokenizer and its `generate`."""

    def __init__(self, process: subprocess.Popen[str], errors: BinaryIO, file: str, dtype: str, version: str):
        self.process, self.errors = process, errors
        self.name, self.file, self.exact = f"transformers.js {version}", file, dtype == "fp32"
        self._ask("open")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._ask("encode", text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens."""
        text: str = self._ask("decode", ids)
        return text

    def logits(self, ids: list[int]) -> np.ndarray:
        values = np.frombuffer(base64.b64decode(self._ask("logits", ids)), dtype="<f4")
        return values.reshape(len(ids), -1)

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        new_ids: list[int] = self._ask("greedy", ids, max_new_tokens) if max_new_tokens > 0 else []
        return new_ids

    def _ask(self, name: str, *values: Any) -> Any:
        """What the function `name` of the program gives for `values`: a line of JSON there, and one back."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps([name, *values]) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        answered: dict[str, Any] = json.loads(answer) if answer else {"error": _last(self.errors)}
        if "error" in answered:
            raise ProofError(f"{self.file} cannot be opened by {self.name}: {one_line(answered['error'])}")
        return answered["value"]
