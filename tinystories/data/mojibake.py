"""Mojibake: UTF-8 that was once read in another encoding, so that “ became â€œ. How it is undone, and nothing else.

A broken character costs a model dozens of nats, and teaches it to write more of them. ftfy knows how such text came
about. One case is decided here before it is asked: in Windows-1252 the last byte of ” is no character, many programs
drop it, and the â€ that is left would become a dagger together with the space after it.
"""

import re

from ftfy import fix_encoding


# Bytes 80 to BF, which follow in a character of UTF-8, as Windows-1252 reads them
_FOLLOWING = "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0xC0))
_CLOSING_QUOTE_CUT = re.compile(f"â€(?![{_FOLLOWING}])")
# A pair of whole quotes; what looks like the closing one may be a byte of a broken dash, sign or emoji
_WHOLE_QUOTES = re.compile(r"(?<![^\s(])(“)([^“”]*)(?<![à-ð].)(?<!ð..)(”)")
_SENTENCE_END = re.compile(r"(?<=[.!?] )|(?<=\n)")


def repair_mojibake(text: str) -> str:
    """`text` with such characters restored; text without them, curly quotes and emoji among it, comes back as it is.

    Sentence by sentence, and inside and outside of whole quotes apart: what is broken in one says nothing of the next.
    """
    while not text.isascii():
        parts = (sentence for part in _WHOLE_QUOTES.split(text) for sentence in _SENTENCE_END.split(part))
        repaired = "".join(part if part.isascii() else _repair_sentence(part) for part in parts)
        if repaired == text:
            break
        text = repaired  # it may have gone wrong twice
    return text


def clean_text(text: str) -> str:
    """`text` repaired and without white space around it; cleaning the result changes nothing."""
    while (cleaned := repair_mojibake(text).strip()) != text:  # a space that was broken may stand at the end
        text = cleaned
    return text


def _repair_sentence(text: str) -> str:
    return fix_encoding(_CLOSING_QUOTE_CUT.sub("”", text))
