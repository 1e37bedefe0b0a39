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


def repair_mojibake(text: str) -> str:
    """`text` with such characters restored; text without them, curly quotes and emoji among it, comes back as it is."""
    while not text.isascii():
        repaired = fix_encoding(_CLOSING_QUOTE_CUT.sub("”", text))
        if repaired == text:
            break
        text = repaired  # it may have gone wrong twice
    return text
