"""Which files a path stands for: the file itself, or every readable file of a known format in a folder.

Links are followed, out of the folder too: a data folder is often made of links. A file or folder that several paths
lead to is read once, at the first of them. Hidden files and folders (`.git`, `.DS_Store`) are left out, and so is what
cannot be read; all of it is counted and named. A pipe or a socket is never opened, which would wait for its writer.
"""

import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tinystories.errors import UserError


logger = logging.getLogger(__name__)

HIDDEN, NAMED = "hidden", 5


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
        for file in _walk(path, found, seen=above):
            if file.suffix.lower() in suffixes:
                found.files.append(file)
            else:
                found.leave_out(file, "of another format")
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


def _walk(folder: Path, found: FoundFiles, seen: set[str]) -> Iterator[Path]:
    """The readable files in `folder` and below. seen: real paths that are not entered again, or not at all."""
    seen.add(os.path.realpath(folder))
    for name in sorted(os.listdir(folder)):
        path = folder / name
        real = os.path.realpath(path)
        if name.startswith("."):
            found.leave_out(path, HIDDEN)
        elif real in seen:
            found.leave_out(path, "read already under another name, or linked to a folder around them")
        elif not os.path.exists(path):
            linked = os.path.islink(path)
            found.leave_out(path, "linked to nothing that can be read" if linked else "without permission to read")
        elif not (path.is_dir() or path.is_file()):
            found.leave_out(path, "neither file nor folder")
        elif not _is_readable(path):
            found.leave_out(path, "without permission to read")
        else:
            if path.is_symlink():
                found.links.append(path)
            if path.is_dir():
                yield from _walk(path, found, seen)
            else:
                seen.add(real)
                yield path


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
    return f"{len(paths)} {reason}: {_some([str(path.relative_to(folder)) for path in paths])}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
