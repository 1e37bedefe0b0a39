"""Text that is written piece by piece, as a person reads it in a terminal: lines break between words, not within them.

Control characters, which a model may write too, are shown as escapes: to the terminal they would be commands.
"""

import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager


WIDEST = 100  # columns; longer lines are hard to read


def columns() -> int:
    """The columns of a line of text in this terminal, now."""
    return min(shutil.get_terminal_size().columns, WIDEST)


class WordWrap:
    """Passes text on to `show` with line ends, as soon as a word is complete."""

    def __init__(self, show: Callable[[str], None], columns: Callable[[], int] = columns):
        self.show, self.columns = show, columns
        self.column = 0  # where the text that was shown ends
        self.space, self.word = "", ""  # what comes after it

    def add(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self.flush()
                self.show("\n")
                self.space, self.column = "", 0
            elif character in " \t":
                self.flush()
                self.space += " "
            else:
                self._add_to_word(character)

    def flush(self) -> None:
        """Show a word that may not be complete."""
        if not self.word:
            return
        if self.column + len(self.space) + _width(self.word) > self.columns():
            self.space, self.column = ("\n", -1) if self.column else ("", 0)
        self.show(self.space + self.word)
        self.column += len(self.space) + _width(self.word)
        self.space, self.word = "", ""

    def _add_to_word(self, character: str) -> None:
        shown = character if unicodedata.category(character) not in ("Cc", "Cs") else repr(character)[1:-1]
        alone = _width(character) == 2  # Chinese and Japanese have no spaces: a line may end at every character
        if alone or _width(self.word + shown) > self.columns():
            self.flush()
        self.word += shown
        if alone:
            self.flush()


@contextmanager
def story_on_stdout() -> Iterator[Callable[[str], None]]:
    """What shows the text of a story: wrapped in a terminal, elsewhere as it is. The story's last line is ended, also
    where it was stopped by Ctrl-C."""
    wrap = WordWrap(_print)
    try:
        yield wrap.add if sys.stdout.isatty() else _print
    finally:
        wrap.flush()
        _print("\n")


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _width(text: str) -> int:
    """The columns that `text` takes."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
