"""What a person typed, made fit to go on from, and what the model wrote, made fit to look at."""

import unicodedata

from tinystories.generation.tidy import tidy


BROKEN = "\ufffd"
EMPTY_PROMPT = {"error": "prompt: nothing is left without spaces and control characters", "field": "prompt"}


def sanitised(prompt: str) -> str:
    """Without control characters (line ends and tabs stay), and without the sign for a broken character, which a
    tokenizer could not tell from the beginning of one that is still to be written."""
    plain = prompt.replace("\r\n", "\n").replace("\r", "\n")
    controls = {letter for letter in plain if unicodedata.category(letter) == "Cc"} - {"\n", "\t"}
    return "".join(letter for letter in plain if letter not in controls | {BROKEN})


def tidied(prompt: str, text: str) -> str:
    """`text`, which goes on from `prompt`, tidied. What a sentence is depends on the last word before it."""
    if not text.strip():
        return text
    last = prompt.split()[-1] if prompt.split() else ""
    return tidy(last + text)[len(last) :]
