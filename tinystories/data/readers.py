"""Read stories from files: one function for each format.

What a story is in each format:

- `.txt`: UTF-8. Where the file holds `<|endoftext|>`, that ends a story; otherwise one or more blank lines do.
  `story_separator` sets it: `endoftext`, `blank_line`, or `file` (the whole file is one story).
- `.jsonl`: one JSON object a line, the story in its field `text_column` (or a JSON string a line).
- `.csv`: a header line, the story in the column `text_column`.
- `.parquet`: the story in the column `text_column`.
- a folder: every such file in it and in its subfolders, in the order of their paths.

Line ends become `\\n` and white space around a story is removed; empty stories are counted and skipped.
"""

import csv
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tinystories.config.keys import DataArguments
from tinystories.config.outside import word_from_outside
from tinystories.errors import UserError, one_line


logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
STORIES_PER_BATCH = 1000
SURROGATE = re.compile("[\ud800-\udfff]")


def story_places(path: str, arguments: DataArguments) -> Iterator[tuple[Path, int | None]]:
    """File and first line (None in a .parquet file) of each story, in the order in which `read_files` gives them."""
    for file in list_files(Path(path)):
        for row in READERS[file.suffix.lower()](file, arguments, {"separators": []}):
            if not isinstance(row, BadRow) and row.strip():
                yield file, getattr(row, "line", None)


class _Row(str):
    """The text of a story that begins at `line` of its file."""

    line: int


class BadRow(Exception):
    """A row that is not a story; the message begins with its file and line."""


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


def list_files(path: Path) -> list[Path]:
    """The file, or the files of known formats in a folder; a path that cannot be read is a `UserError`."""
    try:
        files = _known_files(path)
    except OSError as error:  # a name that is too long, a folder without permission
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    for file in files:  # its name is written into reports
        word_from_outside("the name of", str(file))
    return files


def _known_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise UserError(
                f"{path}: cannot read {path.suffix or 'a file without ending'}", f"known formats: {', '.join(READERS)}"
            )
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder (looked in {Path.cwd()})")
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    known = [file for file in files if file.suffix.lower() in READERS]
    if not known:
        raise UserError(f"{path}: contains no {', '.join(READERS)} file")
    if len(known) < len(files):
        others = [file.name for file in files if file not in known]
        logger.warning("%s: skipped %d files of unknown formats: %s", path, len(others), ", ".join(others[:5]))
    return known


def _lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their line ends; at a line that is not UTF-8 a `UserError` with its number."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}:{number}: not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})",
                    "save the file as UTF-8",
                ) from error
            if b"\0" in line:
                raise UserError(
                    f"{file}:{number}: has a zero byte, so it is not text or is UTF-16", "save the file as UTF-8"
                )
            yield text


@_reader(".txt")
def _read_txt(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    rule = arguments.story_separator
    if rule == "auto":
        rule = "endoftext" if any(END_OF_TEXT in line for line in _lines(file)) else "blank_line"
    described = {"endoftext": END_OF_TEXT, "blank_line": "blank lines", "file": "the end of the file"}[rule]
    if described not in report["separators"]:
        report["separators"].append(described)

    story: list[str] = []
    begins = 0  # the line of the story's first word; 0: there is none yet
    for number, line in enumerate(_lines(file), start=1):
        if rule == "endoftext" and END_OF_TEXT in line:
            *ended, line = line.split(END_OF_TEXT)
            for piece in ended:
                yield _at(begins or number, "".join([*story, piece]))
                story, begins = [], 0
        elif rule == "blank_line" and not line.strip():
            if story:
                yield _at(begins, "".join(story))
            story, begins, line = [], 0, ""
        if line:
            story.append(line)
            begins = begins or (number if line.strip() else 0)
    if "".join(story).strip():
        yield _at(begins, "".join(story))


@_reader(".jsonl")
def _read_jsonl(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(f"{file}:{number}: not JSON ({getattr(error, 'msg', error)})")
            continue
        fields = f"; it has {list(value)}: choose one with --text_column" if isinstance(value, dict) else ""
        if isinstance(value, dict):
            value = value.get(arguments.text_column)
        if not isinstance(value, str):
            yield BadRow(f"{file}:{number}: no text in field {arguments.text_column!r}{fields}")
        elif SURROGATE.search(value):
            yield BadRow(f"{file}:{number}: a lone surrogate escape, which is half a character")
        else:
            yield _at(number, value)


@_reader(".csv")
def _read_csv(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB would refuse a long story
    reader = csv.reader(_lines(file), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(f"{file}:1: not CSV ({error})") from error
    if arguments.text_column not in header:
        raise UserError(
            f"{file}:1: no column {arguments.text_column!r}; it has {header}", "choose one with --text_column"
        )
    if header.count(arguments.text_column) > 1:
        raise UserError(f"{file}:1: several columns are named {arguments.text_column!r}", "rename all but one")
    column = header.index(arguments.text_column)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(f"{file}:{reader.line_num}: not CSV ({error})")
            continue
        if len(row) == len(header):
            yield _at(begins, row[column])
        elif row:
            yield BadRow(f"{file}:{reader.line_num}: {len(row)} fields, and the header has {len(header)}")


@_reader(".parquet")
def _read_parquet(file: Path, arguments: DataArguments, report: dict) -> Iterator[str | BadRow]:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a Parquet file ({one_line(error)})") from error
    with table:
        if arguments.text_column not in table.schema_arrow.names:
            raise UserError(
                f"{file}: no column {arguments.text_column!r}; it has {table.schema_arrow.names}",
                "choose one with --text_column",
            )
        number = 0
        try:
            for batch in table.iter_batches(batch_size=STORIES_PER_BATCH, columns=[arguments.text_column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield value if isinstance(value, str) else BadRow(f"{file}: row {number}: no text")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read after row {number} ({one_line(error)})") from error
