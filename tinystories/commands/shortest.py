"""The shortest command that works, for a command that was started without arguments and can do nothing without them."""

import os

from tinystories.config.names import RUNS
from tinystories.config.packaged import BOXED
from tinystories.console import shell_line
from tinystories.errors import UserError


DEMO = f"{RUNS}/demo"  # the run folder of the first recipe of the README
CHECKPOINT = "CHECKPOINT"  # stands for the demo's, if it is here, else the boxed model
MISSING: dict[str, tuple[str, list[str], list[str]]] = {  # what is missing, and the arguments and options that work
    "train": ("recipe", ["demo"], []),
    "tokenizer": ("source of stories", [], ["--num_sample_stories", "10000"]),
    "evaluate": ("checkpoint", [CHECKPOINT], ["--quick"]),
    "check": ("recipe, model or text", ["demo"], []),
    "report": ("run", [CHECKPOINT], []),
    "export": ("checkpoint", [CHECKPOINT], ["--format", "page"]),
    "push": ("checkpoint", [CHECKPOINT, "USER/NAME"], []),
}


def require_arguments(command: str, argv: list[str]) -> None:
    """Raises UserError: nothing was typed. The message names the shortest command that works here."""
    if argv:
        return
    what, words, options = MISSING[command]
    checkpoint = DEMO if os.path.isdir(DEMO) else BOXED.name
    line = shell_line(command, *(checkpoint if word == CHECKPOINT else word for word in words), options=options)
    raise UserError(f"no {what} is named", f"the shortest command that works is {line}; --help lists the options")
