"""Repair mojibake: UTF-8 that was once read in another encoding, so that “ became â€œ.

A broken character costs a model dozens of nats and teaches it to write more of them. ftfy repairs them, except for one
case that is handled here first: the last byte of ” is not a character in Windows-1252, many programs drop it, and ftfy
would turn the rest, â€ and the space after it, into a dagger.
"""

import re

from ftfy import fix_encoding


# Bytes 80 to BF, which follow in a character of UTF-8, as Windows-1252 reads them
_FOLLOWING = "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0xC0))
_CLOSING_QUOTE_CUT = re.compile(f"â€(?![{_FOLLOWING}])")
# A pair of whole quotes. What looks like a closing quote may be a byte of a broken dash, sign or emoji.
_WHOLE_QUOTES = re.compile(r"(?<![^\s(])(“)([^“”]*)(?<![à-ð].)(?<!ð..)(”)")
_SENTENCE_END = re.compile(r"(?<=[.!?] )|(?<=\n)")


def repair_mojibake(text: str) -> str:
    """`text` with broken characters restored. Text without them, such as curly quotes and emoji, is not changed.

    Each sentence is repaired on its own, and so are the parts inside and outside of whole quotes: one may be broken and
    the next one not.
    """
    while not text.isascii():
        parts = (sentence for part in _WHOLE_QUOTES.split(text) for sentence in _SENTENCE_END.split(part))
        repaired = "".join(part if part.isascii() else _repair_sentence(part) for part in parts)
        if repaired == text:
            break
        text = repaired  # the text may have been broken twice
    return text


def clean_text(text: str) -> str:
    """`text` repaired and without white space around it; cleaning the result changes nothing."""
    while (cleaned := repair_mojibake(text).strip()) != text:  # a repaired character may be a space at the end
        text = cleaned
    return text


def _repair_sentence(text: str) -> str:
    return fix_encoding(_CLOSING_QUOTE_CUT.sub("”", text))
