"""Read stories from files: one function for each format.

What a story is in each format:

- `.txt`: what `story_separator` ends (separators.py). By default `<|endoftext|>` does where the file holds it, else
  blank lines do; a file for which that is a doubtful guess is refused or said (separator_survey.py).
- `.jsonl`: one JSON object a line, the story in its field `text_column` (or a JSON string a line).
- `.csv`, `.tsv`: a header line, the story in the column `text_column`. The delimiter is found by the header
  (csv_rows.py).
- `.parquet`: the story in the column `text_column`.
- a folder: every such file in it and in its subfolders, in the order of their paths (files.py).

Text is UTF-8. Line ends become `\\n` and white space around a story is removed; empty stories are counted and skipped.
Memory: a thousand stories and the longest line or record, however large the file is.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinystories.config.keys import DataArguments
from tinystories.config.outside import word_from_outside
from tinystories.data.csv_rows import DELIMITERS, open_table, read_rows, usual_delimiter
from tinystories.data.files import FoundFiles, find_files
from tinystories.data.lines import read_lines, read_whole_lines
from tinystories.data.separator_survey import doubt, survey
from tinystories.data.separators import RULES, check_separator, cut, describe, holds_separator
from tinystories.errors import UserError, one_line


STORIES_PER_BATCH = 1000
SURROGATE = re.compile("[\ud800-\udfff]")
CHATS = "chats must be written out as text first"
CHOOSE = "choose one with --text_column"
JSON_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class _Row(str):
    """The text of a story that begins at `line` of its file."""

    line: int


class BadRow(Exception):
    """A row that is not a story; the message begins with its file and line."""

    def __init__(self, message: str, remedy: str = "correct it"):
        super().__init__(message)
        self.remedy = remedy


Reader = Callable[[Path, DataArguments, dict], Iterator[str | BadRow]]
READERS: dict[str, Reader] = {}  # by suffix of the file name


def _at(line: int, text: str) -> _Row:
    row = _Row(text)
    row.line = line
    return row


def _reader(*suffixes: str) -> Callable[[Reader], Reader]:
    def register(function: Reader) -> Reader:
        READERS.update(dict.fromkeys(suffixes, function))
        return function

    return register


def list_files(path: Path) -> FoundFiles:
    """The file, or the files of known formats in a folder; a path that cannot be read is a `UserError`."""
    found = find_files(path, READERS)
    for file in found.files:  # its name is written into reports
        word_from_outside("the name of", str(file))
    return found


def read_stories(files: list[Path], arguments: DataArguments, report: dict[str, Any]) -> Iterator[str | BadRow]:
    """The rows of all files, in order. report: gets what was found out about them, in words.

    Raises:
        UserError: a file that is not what its name says, a column that is no text, a separator that must be named.
    """
    for _, row in _rows(files, arguments, report):
        yield row
    rule = arguments.story_separator
    if rule not in RULES and report["separators"] and describe(rule) not in report["separators"]:
        raise UserError(
            f"story_separator {rule!r} is not found in {files[0]}" + (" or the others" if len(files) > 1 else ""),
            f"name another, or a rule: {', '.join(RULES)}",
        )


def _rows(files: list[Path], arguments: DataArguments, report: dict[str, Any]) -> Iterator[tuple[Path, str | BadRow]]:
    report |= {"files": len(files), "separators": [], "delimiters": [], "doubts": []}
    for file in files:
        for row in READERS[file.suffix.lower()](file, arguments, report):
            yield file, row


def story_places(path: str, arguments: DataArguments) -> Iterator[tuple[Path, int | None]]:
    """File and first line (None in a .parquet file) of each story, in the order in which `read_files` gives them."""
    files = list_files(Path(path)).files
    report: dict[str, Any] = {}
    for file, row in _rows(files, arguments, report):
        if not isinstance(row, BadRow) and row.strip():
            yield file, getattr(row, "line", None)


@_reader(".txt")
def _read_txt(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    rule = _rule_of(file, arguments.story_separator, report)
    if describe(rule) not in report["separators"]:
        report["separators"].append(describe(rule))
    return (_at(line, text) for line, text in cut(read_lines(file), rule))


def _rule_of(file: Path, rule: str, report: dict) -> str:
    """The rule that divides this file."""
    check_separator(rule)
    if rule not in RULES:
        return rule if any(holds_separator(line, rule) for line in read_lines(file)) else "file"
    if rule != "auto":
        return rule
    found = survey(read_lines(file))
    if found is None:
        return "endoftext"
    question = doubt(found, only_file=report["files"] == 1)
    if question is not None and question.certain:
        raise UserError(f"{file}: {question.found}", question.remedy)
    if question is not None:
        report["doubts"].append(f"{file}: {question.found}: {question.remedy}")
    return "blank_line"


@_reader(".jsonl")
def _read_jsonl(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    _check_one_value_a_line(file)
    for number, line in enumerate(read_whole_lines(file), start=1):
        if line.strip():
            try:
                yield _at(number, _text_of(line, arguments.text_column))
            except BadRow as bad:
                yield BadRow(f"{file}:{number}: {bad}", bad.remedy)


def _check_one_value_a_line(file: Path) -> None:
    """Refuse a file that is one list or one object over several lines: its rows cannot be counted."""
    lines = (line.strip() for line in read_lines(file) if line.strip())
    first = next(lines, "")
    if first == "{" or (first.startswith("[") and (not _is_json(first) or next(lines, None) is None)):
        what = "object over several lines" if first == "{" else "list"
        raise UserError(
            f"{file}:1: not JSON lines but one JSON {what}", "write each object with a story into a line of its own"
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _text_of(line: str, column: str) -> str:
    """The story in a line of JSON; a `BadRow` without its place if there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON ({getattr(error, 'msg', error)})") from error
    if isinstance(value, dict):
        if column not in value:
            texts = [name for name, other in value.items() if isinstance(other, str)]
            raise BadRow(
                f"no field {column!r}; it has {list(value)}", CHOOSE if texts else f"none of them is text: {CHATS}"
            )
        if line.count(f'"{column}"') > 1 and _names(line).count(column) > 1:
            raise BadRow(f"the field {column!r} is given twice")
        value = value[column]
    if not isinstance(value, str):
        chat = isinstance(value, list) and any(isinstance(item, dict) for item in value)
        raise BadRow(
            f"no text in field {column!r}, it is {JSON_KINDS[type(value)]}, not text", CHATS if chat else "correct it"
        )
    if SURROGATE.search(value):
        raise BadRow("a lone surrogate escape, which is half a character")
    return value


def _names(line: str) -> list[str]:
    """The names of all fields of a JSON object, as often as they are given."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    return [name for name, _ in pairs]


@_reader(".csv", ".tsv")
def _read_csv(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    table = open_table(file, arguments.text_column)
    if table.delimiter != usual_delimiter(file) and DELIMITERS[table.delimiter] not in report["delimiters"]:
        report["delimiters"].append(DELIMITERS[table.delimiter])
    for line, row in read_rows(table):
        yield BadRow(f"{file}:{line}: {row}") if isinstance(row, str) else _at(line, row[table.column])


@_reader(".parquet")
def _read_parquet(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a Parquet file ({one_line(error)})") from error
    with table:
        check_text_column(str(file), table.schema_arrow, arguments.text_column)
        number = 0
        try:
            for batch in table.iter_batches(batch_size=STORIES_PER_BATCH, columns=[arguments.text_column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield value if isinstance(value, str) else BadRow(f"{file}: row {number}: no text")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read after row {number} ({one_line(error)})") from error


def check_text_column(source: str, schema: pa.Schema, column: str) -> None:
    """Refuse a column that is not there, is there twice or does not hold text.

    Raises:
        UserError: naming the columns that hold text.
    """
    texts = [item.name for item in schema if _is_text(item.type)]
    remedy = CHOOSE if texts else f"none of them is text: {CHATS}"
    if column not in schema.names:
        raise UserError(f"{source}: no column {column!r}; it has {schema.names}", remedy)
    if schema.names.count(column) > 1:
        raise UserError(f"{source}: several columns are named {column!r}", "rename all but one")
    if not _is_text(kind := schema.field(column).type) and not pa.types.is_null(kind):
        what = "a list" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else str(kind)
        others = f"; {texts} are" if texts else ""
        chat = CHATS if pa.types.is_nested(kind) else "write the text into it"
        raise UserError(f"{source}: column {column!r} is {what}, not text{others}", CHOOSE if texts else chat)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
