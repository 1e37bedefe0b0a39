"""Files that are whole or not there, whatever happens to the process or the power while they are written.

A text is written aside and put in its place in one step. A folder is sealed when it is complete: sealed.json holds the
size and SHA-256 of each of its files, so that one that was cut off or changed afterwards is named, never read.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError


SEAL = "sealed.json"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, text: str) -> None:
    """Replace the file, or leave it as it is."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    _to_disk(unfinished)
    os.replace(unfinished, path)


def seal(folder: Path, belongs: Callable[[Path], bool] = lambda file: True) -> None:
    """Bring every file of the folder to the disk, then write down those that `belongs` to what was promised."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        _to_disk(file)
    entries = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in files
        if belongs(file)
    }
    write_atomically(folder / SEAL, json.dumps(entries, indent=1) + "\n")


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()


def damage(folder: Path, contents: bool = True) -> str | None:
    """What is wrong with a sealed folder, in words, or None. `contents`: read every file, not only its size."""
    try:
        entries = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"its {SEAL} cannot be read"
    for name, expected in entries.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes of {expected['bytes']:,}"
        if contents and _digest(file) != expected["sha256"]:
            return f"{name} is not what was written"
    return None


def discard(folder: Path) -> None:
    """Remove a folder so that a kill half way leaves no part of it under its name."""
    shutil.rmtree(move_aside(folder), ignore_errors=True)


def move_aside(folder: Path) -> Path:
    """Into a folder beside it whose name says that nothing in it counts; returns that."""
    aside = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    os.replace(folder, aside / folder.name)
    return aside


def is_no_room(error: BaseException) -> bool:
    """Whether a write failed because a disk or quota is full, or a file as large as allowed, in any library's words."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    # safetensors reports the system's message; torch.save only that its zip file came out too short
    words = ("os error 28", "os error 27", "os error 122", "inline_container", "PytorchStreamWriter", "iostream error")
    return isinstance(error, (RuntimeError, SafetensorError)) and any(word in str(error) for word in words)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _to_disk(file: Path) -> None:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())
