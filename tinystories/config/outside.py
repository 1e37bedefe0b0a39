"""Words of a command line, a recipe or the environment, checked before any work: text in UTF-8, paths without `~`.

Whatever is not text for a model or a reader may be a path, so a new path option is treated as one without being named.
"""

import os
import sys
from typing import Any

from tinystories.errors import UserError


TEXTS = {"prompt", "sample_prompts", "message", "text_column", "run_name", "project"}


def from_outside(key: str, value: Any) -> Any:
    """The value of an option: a word as `word_from_outside` gives it, each of a list, and any other as it is."""
    if isinstance(value, list):
        return [from_outside(key, item) for item in value]
    return word_from_outside(key, value) if isinstance(value, str) else value


def word_from_outside(key: str, word: str) -> str:
    """`word` with `~` or `~user` replaced by the home folder, unless it is a text.

    Raises:
        UserError: bytes that are not UTF-8, half of a character, a zero byte, a user who does not exist.
    """
    if "\0" in word:
        raise UserError(f"{key} {word!r}: contains a zero byte")
    try:
        if key in TEXTS:  # the system's encoding may be another one; the name of a file must stay in that
            return word.encode("utf-8", "surrogateescape").decode("utf-8")
        path = _without_tilde(key, word)
        path.encode("utf-8")
    except UnicodeError:
        raise UserError(f"{key} {word!r}: is not UTF-8", _remedy(key)) from None
    return path


def _remedy(key: str) -> str:
    if sys.getfilesystemencoding() != "utf-8":
        return "start Python with PYTHONUTF8=1 if it is"
    return "give it in UTF-8" if key in TEXTS else "rename it"


def _without_tilde(key: str, word: str) -> str:
    if not word.startswith("~"):
        return word
    path = os.path.expanduser(word)
    if path == word:
        raise UserError(f"{key} {word}: there is no such home folder", "write the path without ~")
    return path
