"""Write the tables of docs/coming_from.md from tinystories/config/familiar.py.

python tools/coming_from.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.familiar import (
    CHECK_MODEL,
    CHECK_TEXT,
    EVALUATE,
    EXPORT,
    PUSH,
    REPORT,
    REQUEST_FIELDS,
    SERVE,
    TOKENIZER,
    TRAIN,
    WRITE,
    Familiar,
    Field,
)
from tinystories.config.recipe import check_keys
from tinystories.console import SCRIPTS
from tinystories.errors import UserError


DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "coming_from.md"
COMMANDS: dict[str, tuple[Familiar, ...]] = {
    "train": TRAIN,
    "generate": WRITE,
    "serve": SERVE,
    "evaluate": EVALUATE,
    "check": (*CHECK_MODEL, *CHECK_TEXT),
    "tokenizer": tuple(row for row in TOKENIZER if row not in TRAIN),
    "export": EXPORT,
    "push": PUSH,
    "report": REPORT,
}
MOST_NAMES = 6  # of a row; all are answered


def names(row: Familiar | Field, before: str = "") -> str:
    shown = [f"`{before if len(name) > 1 else before[:1]}{name}`" for name in row.names[:MOST_NAMES]]
    return ", ".join(shown) + (", ..." if len(row.names) > MOST_NAMES else "")


def here(row: Familiar) -> str:
    """What the answer to the row's example is."""
    answer = row.answer(row.example)
    if answer.place:
        return f"`{answer.keys[answer.place]}`, without a key"
    written = " ".join(f"--{key} {value}".rstrip() for key, value in answer.keys.items())
    return f"`{written}`{f' ({answer.say})' if answer.say else ''}" if written else answer.say


def of_commands() -> str:
    parts = []
    for command, rows in COMMANDS.items():
        lines = [
            f"| {names(row, '--')} | {row.of} | {f'`{row.example}`' if row.example else ''} | {here(row)} |"
            for row in rows
        ]
        head = ["| name there | of | a value | here |", "|---|---|---|---|"]
        parts.append("\n".join([f"### `{SCRIPTS[command]}`, `tinystories {command}`", "", *head, *lines]))
    return "\n\n".join(parts)


def of_requests() -> str:
    parts = []
    for route, rows in REQUEST_FIELDS.items():
        lines = [f"| {names(row)} | {row.of} | {row.say or f'`{row.here}`'} |" for row in rows]
        parts.append("\n".join([f"### `POST {route}`", "", "| field there | of | here |", "|---|---|---|", *lines]))
    return "\n\n".join(parts)


def example() -> str:
    """A command line and its answer."""
    words = ["configs/demo.yaml", "--lr", "1e-3", "--batch_size", "64", "--validation_split_percentage", "10"]
    try:
        check_keys(words)
    except UserError as error:
        return f"```text\n$ python run_clm.py {' '.join(words)}\nerror: {error}\n```"
    raise SystemExit("the example is no mistake any more")


def with_tables(document: str) -> str:
    for mark, table in (("example", example()), ("options", of_commands()), ("fields", of_requests())):
        begin, end = f"<!-- familiar: {mark} -->", "<!-- familiar: end -->"
        before, _, rest = document.partition(begin)
        document = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return document


def main(argv: Sequence[str]) -> None:
    if argv:
        raise SystemExit("usage: python tools/coming_from.py")
    text = with_tables(DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
