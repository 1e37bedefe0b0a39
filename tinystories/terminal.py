"""What only a terminal gets: progress bars and colours. In a pipe, a file, CI or a notebook there is neither.

Log lines go above a bar (`tqdm.write`); every bar of this project is one of `progress_bar`.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm


Item = TypeVar("Item")

BOLD, DIM, RED, YELLOW = "1", "2", "31", "33"  # codes of ECMA-48, which every terminal of today knows
NOT_WATCHED = ("CI", "JPY_PARENT_PID")  # set in CI, and in the kernel of a notebook, whose cells may have a terminal


def is_live() -> bool:
    """Whether stderr is a terminal that somebody looks at: its last line may change, and it may have colours."""
    watched = not any(os.environ.get(name) for name in NOT_WATCHED)
    return watched and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def styled(text: str, code: str) -> str:
    """`text` in a colour or weight on a terminal, unless NO_COLOR is set (no-color.org); plain elsewhere.

    A Windows console knows these codes too: tqdm imports colorama there, which turns them on.
    """
    return f"\x1b[{code}m{text}\x1b[0m" if is_live() and not os.environ.get("NO_COLOR") else text


def progress_bar(items: Iterable[Item] | None = None, **options: Any) -> "tqdm[Item]":
    """A bar on the last line of a terminal, after two seconds of waiting; nothing elsewhere. options: tqdm's."""
    defaults = {"delay": 2, "dynamic_ncols": True, "leave": False, "file": sys.stderr, "disable": False}
    chosen = defaults | options
    chosen["disable"] = chosen["disable"] or not is_live()
    return tqdm(items, **chosen)


def print_above(line: str) -> None:
    """Print a line on stderr, above the bars that are shown."""
    tqdm.write(line, file=sys.stderr)
