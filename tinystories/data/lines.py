"""The lines of a text file: UTF-8, with line ends of any system, and in pieces where a line is very long."""

import codecs
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tinystories.errors import UserError


PIECE = 2**20  # characters
LONGEST_LINE = 2**26  # characters of a line of JSON or CSV; a longer one is no story
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins with the same two bytes


def read_lines(file: Path, longest: int = PIECE) -> Iterator[str]:
    """The lines of a file, each with `\\n` at its end; `\\n`, `\\r\\n` and `\\r` (old Mac) end a line.

    A line of more than `longest` characters comes in several pieces, of which the last ends with `\\n`: a file that
    is one long line is never in memory as a whole. The last line of a file may have no end.

    Raises:
        UserError: text that is not UTF-8 or has a zero byte, with its line.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            number = 1
            for line in iter(partial(stream.readline, longest), ""):
                if "\0" in line:
                    raise UserError(
                        f"{file}:{number}: has a zero byte, so it is not text or is UTF-16", "save the file as UTF-8"
                    )
                yield line
                number += line.endswith("\n")
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(file), "save the file as UTF-8") from error


def _not_utf8(file: Path) -> str:
    """Where a file is not UTF-8."""
    with file.open("rb") as stream:
        if stream.read(2) in UTF_16:
            return f"{file}:1: is UTF-16 and not UTF-8"
        stream.seek(0)
        at = _first_invalid_byte(stream)
        line, begin = _line_of(stream, at)
        stream.seek(at)
        return f"{file}:{line}: not UTF-8 (byte 0x{stream.read(1).hex()} at column {at - begin + 1})"


def _first_invalid_byte(stream: BinaryIO) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoded = 0
    while True:
        part, pending = stream.read(PIECE), len(decoder.getstate()[0])
        try:
            decoder.decode(part, final=not part)
        except UnicodeDecodeError as error:
            return decoded - pending + error.start
        if not part:  # the file was corrected meanwhile
            return decoded
        decoded += len(part)


def _line_of(stream: BinaryIO, at: int) -> tuple[int, int]:
    """The number of the line that holds byte `at`, and the place of its first byte."""
    stream.seek(0)
    line, begin, place = 1, 0, 0
    while place < at:
        part = stream.read(min(PIECE, at - place))
        part += stream.read(1) if part.endswith(b"\r") else b""  # \r\n is one line end
        line += part.count(b"\n") + part.count(b"\r") - part.count(b"\r\n")
        if (last := max(part.rfind(b"\n"), part.rfind(b"\r"))) >= 0:
            begin = place + last + 1
        place += len(part)
    return line, begin


def read_whole_lines(file: Path) -> Iterator[str]:
    """As `read_lines`, each line whole.

    Raises:
        UserError: a line of more than `LONGEST_LINE` characters, too.
    """
    for number, line in enumerate(read_lines(file, LONGEST_LINE + 1), start=1):
        if len(line) > LONGEST_LINE:
            raise UserError(f"{file}:{number}: a line of more than {LONGEST_LINE:,} characters, which is no story")
        yield line
