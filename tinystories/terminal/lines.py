"""What a line that is typed in a session means: a command, or how a story begins.

A command is written in small letters. Those that take no words are commands if they stand alone, so that "help the fox"
begins a story; the others are commands whatever follows, so that a mistake in one of them does not begin a story. A
space in front makes any line the beginning of a story, a slash any a command.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from tinystories.config.outside import word_from_outside
from tinystories.errors import UserError


ALONE = ("again", "continue", "settings", "help", "quit", "exit")
WITH_WORDS = {"set": ("a name and a value", 2), "preset": ("a name", 1), "seed": ("a number", 1), "save": ("a file", 1)}
COMMANDS = (*WITH_WORDS, *ALONE)


@dataclass(frozen=True)
class Command:
    """words: what follows its name, no more words than it takes."""

    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Beginning:
    """Of a story."""

    text: str


def read_line(line: str) -> Command | Beginning | None:
    """None: there is nothing in it.

    Raises:
        UserError: a slash and no command, too many words for a command, a text that no story can begin with.
    """
    line = word_from_outside("prompt", line)
    text = line.strip()
    if not text:
        return None
    name, _, rest = text.removeprefix("/").partition(" ")
    known = name in WITH_WORDS or (name in ALONE and not rest) or (name == "help" and rest in COMMANDS)
    if text.startswith("/") and not known:
        raise UserError(f"no command {text}", nearest(name, COMMANDS) or f"the commands are {', '.join(COMMANDS)}")
    if known and not line.startswith(" "):
        return _command(name, rest.strip())
    check_text(text)
    return Beginning(text)


def _command(name: str, rest: str) -> Command:
    if name in ALONE:
        return Command(name)
    if name == "set":  # `temperature=0.9`, as other programs have it
        rest = rest.replace("=", " ")
    quoted = len(rest) > 1 and rest[0] == rest[-1] and rest[0] in "\"'"
    words = (rest[1:-1],) if quoted else tuple(rest.split())
    what, most = WITH_WORDS[name]
    if len(words) > most:
        quotes = "a name with spaces is put in quotes; " if name == "save" else ""
        raise UserError(f"{name} takes {what}", f"{quotes}a space in front of the line begins a story with it")
    return Command(name, words)


def check_text(text: str) -> None:
    """Raises UserError: a control character, which no story has, and which would be a command to a terminal."""
    for character in text:
        if (character < " " and character not in "\t\n") or "\x7f" <= character < "\xa0":
            raise UserError(f"the text has a control character ({character!r})", "leave it out")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """`did you mean top_k?`; None if no name is near."""
    begins = [known for known in names if len(name) > 1 and known.startswith(name)]
    near = begins or get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else None
