"""The rows of a CSV file with their lines. A quote that is not closed must not swallow the rows after it.

Python's reader takes all from a stray quote to the next one, or to the end of the file, as one field. Here such a
record is one bad row, named by the line where it begins, and reading starts again at the next line that looks like a
row: it has as many fields as the header, and beside the text the same kind of values.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tinystories.data.lines import LONGEST_LINE, read_whole_lines
from tinystories.errors import UserError


DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
NUMBER, WORD, TEXT, EMPTY = range(4)  # kinds of values
ROW_LIKE_LINES = {NUMBER: 2, WORD: 4, TEXT: 12, EMPTY: 12}  # a sentence before a comma may be one word, by chance

csv.field_size_limit(2**31 - 1)  # the default of 128 KiB would refuse a long story


@dataclass
class Table:
    """A CSV file, its delimiter and header, and which column holds the stories."""

    file: Path
    delimiter: str
    header: list[str]
    column: int


def usual_delimiter(file: Path) -> str:
    return "\t" if file.suffix.lower() == ".tsv" else ","


def open_table(file: Path, column: str) -> Table:
    """Find the delimiter with which the header has `column`.

    Raises:
        UserError: none has; the message names the columns that there are.
    """
    usual = usual_delimiter(file)
    headers = {}
    for delimiter in dict.fromkeys([usual, *DELIMITERS]):
        try:
            headers[delimiter] = next(csv.reader(_Lines(read_whole_lines(file)), delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            if delimiter == usual:
                raise UserError(f"{file}:1: not CSV ({error})") from error
    most = max(headers, key=lambda delimiter: len(headers[delimiter]))
    if len(headers[usual]) > 1:
        most = usual
    delimiter = next((mark for mark in (usual, most, *headers) if column in headers[mark]), "")
    if not delimiter or (len(headers[delimiter]) == 1 and len(headers[most]) > 1):
        found = (
            f"the header holds {DELIMITERS[most]} and no {DELIMITERS[usual]}, so it has" if most != usual else "it has"
        )
        raise UserError(f"{file}:1: no column {column!r}; {found} {headers[most]}", "choose one with --text_column")
    if headers[delimiter].count(column) > 1:
        raise UserError(f"{file}:1: several columns are named {column!r}", "rename all but one")
    return Table(file, delimiter, headers[delimiter], headers[delimiter].index(column))


@dataclass
class _Lines:
    """Lines that can be put back. taken: those of the record that is being read."""

    lines: Iterator[str]
    put_back: list[str] = field(default_factory=list)  # the next one is the last
    taken: list[str] = field(default_factory=list)
    characters: int = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.put_back.pop() if self.put_back else next(self.lines)
        self.taken.append(line)
        self.characters += len(line)
        if self.characters > LONGEST_LINE:
            raise csv.Error(f"more than {LONGEST_LINE:,} characters")
        return line

    def begin(self) -> None:
        self.taken, self.characters = [], 0


def read_rows(table: Table) -> Iterator[tuple[int, list[str] | str]]:
    """The line where each row begins, and its fields; of a row that cannot be used, what is wrong.

    Memory: the longest record; after a quote that is not closed, at most `LONGEST_LINE` characters.
    """
    lines = _Lines(read_whole_lines(table.file))
    reader = csv.reader(lines, delimiter=table.delimiter, strict=True)
    next(reader, None)  # the header
    number, like = 1 + len(lines.taken), None
    while True:
        lines.begin()
        row: list[str] = []
        try:
            row = next(reader)
            wrong = _what_is_wrong(row, lines.taken, table)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = _not_csv(error, number, len(lines.taken))
            reader = csv.reader(lines, delimiter=table.delimiter, strict=True)
        begins = number
        if wrong:
            like = like or _kinds(_fields(lines.taken[0], table), table)
            rest = _from_next_row(lines.taken, like, table)
            lines.put_back += reversed(rest)
            number += len(lines.taken) - len(rest)
            yield begins, wrong
        else:
            number += len(lines.taken)
            if row:
                like = _kinds(row, table)
                yield begins, row


def _not_csv(error: csv.Error, line: int, lines: int) -> str:
    if lines == 1 and "end of data" not in str(error):
        return f"not CSV ({error})"
    return f"a quote opens in this row and is not closed (read up to line {line + lines - 1}: {error})"


def _what_is_wrong(row: list[str], lines: list[str], table: Table) -> str | None:
    if row and len(row) != len(table.header):
        return f"{len(row)} fields, and the header has {len(table.header)}"
    others = [line for line in lines[1:] if line.strip()]
    if not others or len(row) < 2:
        return None
    like = _kinds(row, table)
    if not all(_looks_like_row(line, like, table) for line in others):
        return None
    if len(others) >= ROW_LIKE_LINES[min(like)] or _counts_on(row, _fields(others[0], table), table):
        return f"a quote opens in this row and closes {len(lines) - 1} lines later, after lines that look like rows"
    return None


def _from_next_row(lines: list[str], like: list[int], table: Table) -> list[str]:
    """The lines of a bad record from the first that looks like a row of its own, after the record's first line."""
    return next((lines[i:] for i in range(1, len(lines)) if _looks_like_row(lines[i], like, table)), [])


def _fields(line: str, table: Table) -> list[str]:
    return next(csv.reader([line], delimiter=table.delimiter), [])


def _kinds(row: list[str], table: Table) -> list[int]:
    return [_kind(value) for place, value in enumerate(row) if place != table.column]


def _kind(value: str) -> int:
    if not value.strip():
        return EMPTY
    try:
        float(value)
    except ValueError:
        return TEXT if any(character.isspace() for character in value.strip()) else WORD
    return NUMBER


def _looks_like_row(line: str, like: list[int], table: Table) -> bool:
    fields = _fields(line, table)
    if len(fields) != len(table.header):
        return False
    return all(EMPTY in (one, other) or one == other for one, other in zip(_kinds(fields, table), like, strict=False))


def _counts_on(row: list[str], fields: list[str], table: Table) -> bool:
    """Whether a number beside the text is the next one."""
    numbers = [
        (one, other) for place, (one, other) in enumerate(zip(row, fields, strict=True)) if place != table.column
    ]
    return any(one.isdecimal() and other.isdecimal() and int(other) == int(one) + 1 for one, other in numbers)
