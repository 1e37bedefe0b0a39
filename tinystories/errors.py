"""What a user can get wrong. The commands turn these into one line and an exit status (console.py)."""

import signal


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and what to do."""

    exit_status = 1


class GuardError(UserError):
    """A guard found that the run would train a silently broken model."""

    exit_status = 2


class Interrupted(Exception):
    """A signal stopped the run after it was saved."""

    def __init__(self, checkpoint: str, number: int):
        super().__init__(f"stopped as asked; saved in {checkpoint}: the same command with --resume goes on there")
        self.exit_status = 128 + (number if number == signal.SIGTERM else signal.SIGINT)


def one_line(error: BaseException | str) -> str:
    """The message of a library's exception with its line breaks folded, for use inside a `UserError`."""
    return " ".join(str(error).split()) or type(error).__name__
