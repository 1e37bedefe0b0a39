"""What only a terminal gets: progress bars and colours. In a pipe, a file, CI or a notebook there is neither.

Log lines go above a bar (`tqdm.write`); every bar of this project is one of `progress_bar`.
"""

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


BOLD, DIM, RED, YELLOW = "1", "2", "31", "33"  # codes of ECMA-48, which every terminal of today knows
USUAL_COLUMNS = 80  # of a terminal that does not know its size
NOT_WATCHED = ("CI", "JPY_PARENT_PID")  # set in CI, and in the kernel of a notebook, whose cells may have a terminal


def is_live() -> bool:
    """Whether stderr is a terminal that somebody looks at: its last line may change, and it may have colours."""
    watched = not any(os.environ.get(name) for name in NOT_WATCHED)
    return watched and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def styled(text: str, code: str) -> str:
    """`text` in a colour or weight on a terminal, unless NO_COLOR is set (no-color.org); plain elsewhere.

    A Windows console knows these codes too: tqdm imports colorama there, which turns them on.
    """
    return f"\x1b[{code}m{text}\x1b[0m" if code and is_live() and not os.environ.get("NO_COLOR") else text


def progress_bar(items: Iterable[Any] | None = None, disable: bool = False, **options: Any) -> "tqdm[Any]":
    """A bar on the last line of a terminal, after two seconds of waiting; nothing elsewhere. options: tqdm's."""
    shown: dict[str, Any] = {"delay": 2, "dynamic_ncols": True, "leave": False, "file": sys.stderr}
    return tqdm(items, disable=disable or not is_live(), **(shown | options))


def columns() -> int | None:
    """The width of the terminal that stderr is; None where nobody looks."""
    if not is_live():
        return None
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_COLUMNS
    except (OSError, ValueError):
        return USUAL_COLUMNS


def wrapped(text: str, indent: str = "  ") -> str:
    """`text` with the lines that are wider than the terminal broken between words. A path stays whole."""
    width = columns()
    if width is None:
        return text
    wrapper = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if len(line) <= width else wrapper.fill(line) for line in text.split("\n"))


def print_above(text: str) -> None:
    """Print on stderr, above the bars that are shown."""
    tqdm.write(text, file=sys.stderr)
