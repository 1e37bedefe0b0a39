"""Errors that end a command with one line on stderr and an exit status (console.py)."""

import signal
from importlib import metadata


class UserError(Exception):
    """A mistake that the user can correct.

    message: one line that says what is wrong and where. remedy: what to do about it, where the message does not say so
    itself. `str()` is both in one line.
    """

    exit_status = 1

    def __init__(self, message: str, remedy: str | None = None):
        super().__init__(message if remedy is None else f"{message}; {remedy}")
        self.message, self.remedy = message, remedy


class GuardError(UserError):
    """A guard found that the run would train a broken model without any other sign of it."""

    exit_status = 2


class Interrupted(Exception):
    """A signal stopped the run after it was saved."""

    def __init__(self, checkpoint: str, number: int):
        saved = f"saved in {checkpoint}: the same command with --resume continues from there"
        super().__init__(f"stopped by a signal; {saved}")
        self.exit_status = 128 + (signal.SIGINT if number == getattr(signal, "SIGBREAK", None) else number)


def install_hint(extra: str) -> str:
    """The command that installs the optional dependencies `extra`. To an installed package or checkout pip adds them by
    the name; a checkout that is not installed it finds by the folder alone."""
    try:
        metadata.version("tinystories")
    except metadata.PackageNotFoundError:
        return f'python -m pip install -e ".[{extra}]" in the folder of this project'
    return f'python -m pip install "tinystories[{extra}]"'


def one_line(error: BaseException | str) -> str:
    """The message of a library's exception with its line breaks folded, for use inside a `UserError`."""
    return " ".join(str(error).split()) or type(error).__name__
