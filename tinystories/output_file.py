"""The --output_file of the commands: checked before the work begins, written as JSON at its end."""

import json
import os
from pathlib import Path
from typing import Any

from tinystories.errors import UserError, one_line


def check_output_file(output_file: str | None) -> None:
    """Raises UserError if the file could not be written later. None or "": nothing is to be written."""
    if not output_file:
        return
    path = Path(output_file)
    if path.is_dir():
        raise UserError(f"output_file {path}: is a folder", "name a file")
    if not path.resolve().parent.is_dir():
        raise UserError(f"output_file {path}: there is no folder {path.parent}", "create it, or name another file")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise UserError(f"output_file {path}: may not be written", "name another")


def write_output_file(output_file: str | None, result: dict[str, Any]) -> None:
    """Write `result` as JSON, if a file was named; UserError if that fails."""
    if not output_file:
        return
    try:
        Path(output_file).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"output_file {output_file}: cannot be written ({one_line(error)})") from error
