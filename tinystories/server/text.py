"""What a person typed, made fit to go on from, and what the model wrote, made fit to look at."""

import unicodedata

from tinystories.tidy import tidy


EMPTY_PROMPT = {"error": "prompt: nothing is left without spaces and control characters", "field": "prompt"}


def sanitised(prompt: str) -> str:
    """Without control characters (line ends and tabs stay)."""
    plain = prompt.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(letter for letter in plain if letter in "\n\t" or unicodedata.category(letter) != "Cc")


def tidied(prompt: str, text: str) -> str:
    """`text`, which goes on from `prompt`, tidied. What a sentence is depends on the last word before it."""
    last = prompt.split()[-1] if prompt.split() else ""
    return tidy(last + text)[len(last) :]
