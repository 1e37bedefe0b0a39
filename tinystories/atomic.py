"""Files that are complete or absent, even if the process is killed or the power fails while they are written.

A text is written to a second file, which then replaces the first in one step. A folder is sealed when it is complete:
sealed.json holds the size and SHA-256 of each of its files, so that a file that was cut off or changed later is found.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


SEAL = "sealed.json"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, text: str) -> None:
    """Replace the text of a file. If that fails, the file is as it was. Of several processes the last one wins."""
    unfinished = second_file(path)
    unfinished.unlink(missing_ok=True)  # if it is a link, the text would go where that leads
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        _to_disk(unfinished)
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def second_file(path: Path) -> Path:
    """Where this process writes the text of `path` first."""
    return path.with_name(f"{path.name}.{os.getpid()}.unfinished")


def seal(folder: Path, belongs: Callable[[Path], bool] = lambda file: True) -> None:
    """Flush every file of the folder to the disk, then list in sealed.json those for which `belongs` is true."""
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


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, as text; None if nothing is. Reads all of its files."""
    try:
        return _difference(folder)
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"


def _difference(folder: Path) -> str | None:
    try:
        entries = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        expected_files = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError):  # the last three: JSON of another shape
        return f"{SEAL} is damaged"
    if not expected_files:
        return f"{SEAL} names no file"
    for name, (num_bytes, digest) in expected_files.items():
        file = folder / name
        try:
            found_bytes = file.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        except ValueError:  # a zero byte in the name
            return f"{SEAL} is damaged"
        if found_bytes != num_bytes:
            return f"{name} has {found_bytes:,} bytes of {num_bytes:,}"
        if _digest(file) != digest:
            return f"{name} is not what was written"
    return None


def discard(folder: Path) -> None:
    """Remove a folder. A kill during the removal leaves no part of it under its name."""
    shutil.rmtree(move_aside(folder), ignore_errors=True)


def move_aside(folder: Path) -> Path:
    """Move `folder` into a new folder unfinished-* beside it, which a later run removes; returns that one."""
    aside = new_folder(folder.parent, "unfinished-")
    os.replace(folder, aside / folder.name)
    return aside


def new_folder(parent: Path, prefix: str) -> Path:
    """An empty folder in `parent` with a name of its own and the mode that the umask gives: `mkdtemp` lets nobody
    else read it, and such a folder may be renamed to a result.
    """
    while True:
        folder = parent / f"{prefix}{uuid.uuid4().hex[:12]}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def is_no_room(error: BaseException) -> bool:
    """Whether a write failed because the disk or a quota is full, or the file is as large as a file may be."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    from safetensors import SafetensorError  # here: most commands never meet a failed write, and must start fast

    # safetensors repeats the message of the system; torch.save only says that its zip file came out too short
    words = ("os error 28", "os error 27", "os error 122", "inline_container", "PytorchStreamWriter", "iostream error")
    libraries = isinstance(error, (RuntimeError, SafetensorError)) or type(error) is Exception  # that of tokenizers
    return libraries and any(word in str(error) for word in words)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _to_disk(file: Path) -> None:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())
