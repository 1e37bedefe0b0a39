"""The lines that a user has typed in earlier sessions, in a file of that user alone."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from tinystories.atomic import write_atomically


LARGEST = 2**20  # bytes; of a larger file the newer half is kept
ENTRY = b"\n# "  # how prompt_toolkit begins one


def history_file() -> Path:
    """Where the system keeps the state of a user's programs.

    Raises:
        RuntimeError: the user has no home folder.
    """
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local", "tinystories", "history")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tinystories" / "history"
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "tinystories" / "history"


def open_history(kept: bool) -> tuple[History, str | None]:
    """The history, and why it is not kept if that was wanted."""
    if not kept:
        return InMemoryHistory(), None
    try:
        file = history_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        _shorten(file)
        return _Kept(str(file)), None
    except (OSError, RuntimeError) as error:
        return InMemoryHistory(), getattr(error, "strerror", None) or str(error)


def _shorten(file: Path) -> None:
    content = file.read_bytes()
    if len(content) <= LARGEST:
        return
    tail = content[-LARGEST // 2 :]
    write_atomically(file, tail[max(0, tail.find(ENTRY)) :].decode(errors="replace"))
    file.chmod(0o600)


class _Kept(FileHistory):
    def store_string(self, string: str) -> None:
        with suppress(OSError):  # a full disk: only this session knows the line
            super().store_string(string)
