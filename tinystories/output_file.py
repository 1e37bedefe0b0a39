"""What a command writes: its place is checked before the work begins, and what is written is complete or absent.

The check tries to write, since permissions, read-only file systems, quotas and too long names have no common flag. It
leaves nothing behind.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tinystories.atomic import new_folder, second_file, write_atomically
from tinystories.errors import UserError, one_line


LINES = ".jsonl"  # the ending of a file with a JSON object in each line


def check_output_file(output_file: str | None, key: str = "output_file") -> None:
    """Raises UserError if the file could not be written later. None or "": nothing is to be written.

    key: the option that names it. A file that exists is not changed by the check.
    """
    if not output_file:
        return
    named = f"{key} {output_file}"
    try:
        path = Path(output_file)
        if path.is_dir():
            raise UserError(f"{named}: is a folder", "name a file")
        if path.exists() and not path.is_file():  # a pipe or a device, which only its writer opens
            return
        path = path.resolve()  # of a link: what it points to
        if path.is_symlink():  # Python 3.13 returns a link of a circle, earlier ones raise RuntimeError
            raise RuntimeError("links in a circle")
        if not path.parent.is_dir():
            raise UserError(
                f"{named}: there is no folder {Path(output_file).parent}", "create it, or name another file"
            )
        if path.exists():
            path.open("ab").close()
        second_file(path).open("ab").close()
        second_file(path).unlink()
    except (OSError, RuntimeError) as error:  # the latter: links in a circle
        raise UserError(f"{named}: may not be written ({_reason(error)})", "name another") from error


def check_output_folder(output_dir: str | Path, key: str = "output_dir") -> None:
    """Raises UserError if the folder could not be made, or nothing could be written into it."""
    folder = Path(output_dir)
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        reason = f"{above} is not a folder" if not above.is_dir() else _reason(error)
        raise UserError(f"{key} {folder}: cannot be made or written to ({reason})", "give another") from error
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def write_output_file(output_file: str | None, result: dict[str, Any]) -> None:
    """Write `result` as JSON, if a file was named; UserError if that fails, and the file is as it was.

    In a file .jsonl it is a single line.
    """
    if not output_file:
        return
    indent = None if output_file.endswith(LINES) else 2
    text = json.dumps(result, indent=indent, ensure_ascii=False) + "\n"
    try:
        path = Path(output_file)
        if path.is_symlink() or (path.exists() and not path.is_file()):  # such as that of stdout: it stays
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path, text)
    except OSError as error:
        raise UserError(f"output_file {output_file}: cannot be written ({one_line(error)})") from error


@contextmanager
def lines_of_output(output_file: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a result as a line, if a file was named. What is written stays, if more cannot be.

    Raises:
        UserError: it cannot be written.
    """
    if not output_file:
        yield lambda result: None
        return
    try:
        with open(output_file, "w", encoding="utf-8", newline="\n") as file:

            def write(result: dict[str, Any]) -> None:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                file.flush()

            yield write
    except OSError as error:
        raise UserError(f"output_file {output_file}: cannot be written ({one_line(error)})") from error


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """A new folder to write into, whose files are moved into `folder` at the end; if that is not reached, none is."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = new_folder(folder, "unfinished-")
    try:
        yield unfinished
        for file in sorted(unfinished.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
