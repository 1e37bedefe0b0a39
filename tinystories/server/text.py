"""Cleans the prompt before generation, and tidies the text after it."""

import unicodedata

from tinystories.generation.tidy import tidy


REPLACEMENT = "\ufffd"  # U+FFFD, shown for an invalid or incomplete character
EMPTY_PROMPT = {"error": "prompt: nothing is left after removing spaces and control characters", "field": "prompt"}


def sanitised(prompt: str) -> str:
    """Without control characters other than line ends and tabs, and without U+FFFD, which decoding could not tell from
    a character that is still incomplete."""
    plain = prompt.replace("\r\n", "\n").replace("\r", "\n")
    controls = {letter for letter in plain if unicodedata.category(letter) == "Cc"} - {"\n", "\t"}
    return "".join(letter for letter in plain if letter not in controls | {REPLACEMENT})


def tidied(prompt: str, text: str) -> str:
    """`text`, the continuation of `prompt`, tidied. The prompt's last word decides whether it begins a sentence."""
    if not text.strip():
        return text
    last = prompt.split()[-1] if prompt.split() else ""
    return tidy(last + text)[len(last) :]
