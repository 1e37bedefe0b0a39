"""Which files a path stands for: the file itself, or every readable file of a known format in a folder.

Links are followed, out of the folder too: a data folder is often made of links. A file or folder that several paths
lead to is read once, at the first of them. Hidden files and folders (`.git`, `.DS_Store`) are left out, and so is what
cannot be read; all of it is counted and named. A pipe or a socket is never opened, which would wait for its writer.
"""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tinystories.errors import UserError


logger = logging.getLogger(__name__)

HIDDEN, SEEN = "hidden", "read already, or a link to a folder that it is in"
NAMED = 5  # files in a message


@dataclass
class FoundFiles:
    """The files to read, in the order of their paths; what is left out, by reason; the links that were followed."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    links: list[Path] = field(default_factory=list)

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(path)

    def log(self, folder: Path) -> None:
        """Name what is left out and which links were followed."""
        for reason, paths in self.left_out.items():
            level = logging.INFO if reason == HIDDEN else logging.WARNING
            logger.log(level, "%s: left out %s", folder, _count(paths, reason, folder))
        if self.links:
            targets = [f"{path.relative_to(folder)} -> {os.path.realpath(path)}" for path in self.links]
            logger.info("%s: followed %d links: %s", folder, len(targets), _some(targets))


def find_files(path: Path, suffixes: Collection[str]) -> FoundFiles:
    """The file, or those in the folder whose names end in one of `suffixes`.

    Raises:
        UserError: `path` does not exist, is neither file nor folder, has another suffix, or holds no such file.
    """
    found, known = FoundFiles(), ", ".join(suffixes)
    try:
        if not path.is_dir():
            _check_file(path, suffixes)
            return FoundFiles([path])
        above = {os.path.realpath(parent) for parent in Path(os.path.realpath(path)).parents}
        _walk(path, suffixes, found, seen=above)
    except OSError as error:  # a name that is too long, a folder without permission
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not found.files:
        left_out = "; ".join(_count(paths, reason, path) for reason, paths in found.left_out.items())
        raise UserError(f"{path}: contains no {known} file" + (f", only {left_out}" if left_out else ""))
    return found


def _check_file(path: Path, suffixes: Collection[str]) -> None:
    if path.is_file():
        if path.suffix.lower() in suffixes:
            return
        remedy = f"known formats: {', '.join(suffixes)}"
        if path.suffix.lower() == ".json":
            remedy += "; a file with one JSON object a line is named .jsonl"
        raise UserError(f"{path}: cannot read {path.suffix or 'a file without ending'}", remedy)
    if os.path.exists(path):
        raise UserError(f"{path}: is neither a file nor a folder", "write the text to a file and name that")
    if path.is_symlink():
        raise UserError(f"{path}: is a link to {os.readlink(path)}, which does not exist or leads back to itself")
    raise UserError(f"{path}: no such file or folder (looked in {Path.cwd()})")


def _walk(folder: Path, suffixes: Collection[str], found: FoundFiles, seen: set[str]) -> None:
    """Add what is in `folder` and below. seen: real paths that are not read again, or not at all."""
    seen.add(os.path.realpath(folder))
    for name in sorted(os.listdir(folder)):
        path = folder / name
        real = os.path.realpath(path)
        reason = _reason_to_leave_out(path, suffixes) or (SEEN if real in seen else None)
        if reason is not None:
            found.leave_out(path, reason)
            continue
        if os.path.islink(path):
            found.links.append(path)
        if path.is_dir():
            _walk(path, suffixes, found, seen)
        else:
            seen.add(real)
            found.files.append(path)


def _reason_to_leave_out(path: Path, suffixes: Collection[str]) -> str | None:
    if path.name.startswith("."):
        return HIDDEN
    if not os.path.exists(path):
        return "a link to nothing that can be read" if os.path.islink(path) else "no permission to read"
    if not (path.is_dir() or path.is_file()):
        return "neither file nor folder"
    if path.is_file() and path.suffix.lower() not in suffixes:
        return "another format"
    return None if _is_readable(path) else "no permission to read"


def _is_readable(path: Path) -> bool:
    try:
        if path.is_dir():
            os.listdir(path)
        else:
            path.open("rb").close()
    except OSError:
        return False
    return True


def _count(paths: list[Path], reason: str, folder: Path) -> str:
    return f"{len(paths)} ({reason}): {_some([str(path.relative_to(folder)) for path in paths])}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
