"""Write benchmarks/README.md from the records in docs/results, so that no ratio in it is typed by hand.

    python benchmarks/tables.py
    python benchmarks/tables.py --check

--check writes nothing and fails if the page is not what the records say. A record that makes claims has, beside its
provenance,

    "tables": [{"title": what is claimed, "columns": [...], "rows": [[...], ...]}, ...],
    "goals": [{"goal": ..., "at_least" or "at_most": ..., "ratio": ..., "low": ..., "high": ...}, ...],
    "did_not_help": [{"tried": ..., "result": ...}, ...]

`low` and `high` are the spread of the ratio over repeats; both are left out of what was measured once, and the last
list where nothing else was tried. Every other record is listed with its script, date and machine.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.console import run_command
from tinystories.errors import UserError, one_line


ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs" / "results"
PAGE = ROOT / "benchmarks" / "README.md"
PARTS = {"tables": ("title", "columns", "rows"), "goals": ("goal",), "did_not_help": ("tried", "result")}
ORIGIN = ("commit", "date", "command", "machine", "versions")
LIBRARIES = ("torch", "transformers")
SIGNIFICANT = 3  # digits of a measured number
INTRODUCTION = """\
# Benchmarks

`python benchmarks/tables.py` writes this page from the JSON records in [docs/results](../docs/results). Every ratio is
one of medians that were measured side by side, in turns, in one run on one machine. The spread is the lowest and the
highest ratio of the repeats. On another machine a ratio may be another one: the command measures it there.
"""


def page(folder: Path) -> str:
    """The whole page, from the records in `folder`. UserError for a record that does not support what it claims."""
    records = {path.name: _read(path) for path in sorted(folder.glob("*.json"))}
    claims = {name: record for name, record in records.items() if _makes_claims(name, record)}
    others = {name: record for name, record in records.items() if name not in claims}
    parts = [INTRODUCTION]
    if claims:
        goals = [(name, goal) for name, record in claims.items() for goal in record["goals"]]
        parts += ["## Goals\n", _summary(goals, records), *(_section(name, record) for name, record in claims.items())]
    if others:
        rows = [
            [_link(name), _script(record), _date(record), _short_machine(record)] for name, record in others.items()
        ]
        parts += ["## Other records\n", table(["record", "script", "date", "machine"], rows)]
    return "\n".join(parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {one_line(error)}", "measure it again") from None
    if not isinstance(record, dict) or not isinstance(record.get("provenance"), dict):
        raise UserError(
            f"{path} has no provenance", "its script must write provenance(...) of tinystories/provenance.py"
        )
    return record


def _makes_claims(name: str, record: dict[str, Any]) -> bool:
    """Whether the record is one of those that this page is about; checked if so."""
    if not any(key in record for key in PARTS):
        return False
    record.setdefault("did_not_help", [])
    missing = [key for key in PARTS if key not in record]
    if missing:
        raise UserError(f"{name} has no {' and no '.join(missing)}", "an empty list says that there are none")
    _check_origin(name, record["provenance"])
    for part, keys in PARTS.items():
        for entry in record[part]:
            absent = [key for key in keys if not isinstance(entry, dict) or not entry.get(key)]
            if absent:
                raise UserError(f"{name}: an entry of {part} has no {' and no '.join(absent)}: {entry}")
    for goal in record["goals"]:
        _check_goal(name, goal)
    for part in record["tables"]:
        if any(len(row) != len(part["columns"]) for row in part["rows"]):
            raise UserError(f"{name}: a row of the table {part['title']!r} has not one cell for each column")
    return True


def _check_origin(name: str, origin: dict[str, Any]) -> None:
    unknown = [key for key in ORIGIN if not origin.get(key)] or [
        *(f"version of {library}" for library in LIBRARIES if not origin["versions"].get(library)),
        *(["processor"] if not (origin["machine"].get("processor") or origin["machine"].get("accelerator")) else []),
    ]
    if unknown:
        raise UserError(f"the provenance of {name} has no {' and no '.join(unknown)}", "measure it again")


def _check_goal(name: str, goal: dict[str, Any]) -> None:
    """Whether it can be computed that the goal was reached, and the ratio lies in its spread."""
    asked = [key for key in ("at_least", "at_most") if key in goal]
    spread = [key for key in ("low", "high") if goal.get(key) is not None]
    where = f"{name}: goal {goal['goal']!r}"
    if len(asked) != 1:
        raise UserError(f"{where} needs one of at_least and at_most")
    for key in (*asked, "ratio", *spread):
        if not _is_number(goal.get(key)):
            raise UserError(f"{where} has no number {key}", "what was not measured is no goal of a record")
    if len(spread) == 1 or (spread and not goal["low"] <= goal["ratio"] <= goal["high"]):
        raise UserError(f"{where} has a ratio outside its spread", "low <= ratio <= high")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def reached(goal: dict[str, Any]) -> bool:
    """Whether the measured ratio is what was asked for."""
    return _holds(goal, goal["ratio"])


def _holds(goal: dict[str, Any], ratio: float) -> bool:
    return ratio >= goal["at_least"] if "at_least" in goal else ratio <= goal["at_most"]


def _summary(goals: list[tuple[str, dict[str, Any]]], records: dict[str, dict[str, Any]]) -> str:
    columns = ["goal", "asked", "measured", "spread", "reached", "machine", "record"]
    rows = [[*_goal_cells(goal), _short_machine(records[name]), _link(name)] for name, goal in goals]
    return table(columns, rows)


def _goal_cells(goal: dict[str, Any]) -> list[str]:
    key = "at_least" if "at_least" in goal else "at_most"
    asked = f"{key.replace('_', ' ')} {goal[key]:,}".removesuffix(".0")
    spread = "measured once" if goal.get("low") is None else f"{number(goal['low'])} to {number(goal['high'])}"
    return [goal["goal"], asked, _on_its_side(goal), spread, _verdict(goal)]


def _verdict(goal: dict[str, Any]) -> str:
    worst = goal.get("low" if "at_least" in goal else "high")
    if not reached(goal):
        return "no"
    return "yes" if worst is None or _holds(goal, worst) else "yes, not in every repeat"


def _on_its_side(goal: dict[str, Any]) -> str:
    """The ratio, with so many digits that rounding does not move it across what was asked for: 4.9996 is not 5.00."""
    for digits in range(SIGNIFICANT, 18):
        text = number(goal["ratio"], digits)
        if _holds(goal, float(text.replace(",", ""))) == reached(goal):
            break
    return text


def _section(name: str, record: dict[str, Any]) -> str:
    parts = [
        f"## {name.removesuffix('.json').replace('_', ' ').replace('-', ' ').capitalize()}\n",
        _origin(name, record),
    ]
    for part in record["tables"]:
        parts += [f"### {part['title']}\n", table(part["columns"], part["rows"])]
    if record["did_not_help"]:
        rows = [[one["tried"], one["result"]] for one in record["did_not_help"]]
        parts += ["### Tried, and did not help\n", table(["tried", "result"], rows)]
    return "\n".join(parts)


def _origin(name: str, record: dict[str, Any]) -> str:
    origin, machine = record["provenance"], record["provenance"]["machine"]
    versions = [f"{library} {origin['versions'][library]}" for library in LIBRARIES]
    changed = " with uncommitted changes" if origin.get("uncommitted_changes") else ""
    facts = [
        f"Command: `{origin['command']}`",
        f"Machine: {_machine(machine, machine.get('instructions') or [])}{_threads(machine)}{_neighbours(machine)}",
        f"Versions: {', '.join(versions)}",
        f"Measured: {_date(record)}, commit {origin['commit'][:7]}{changed}{_duration(origin)}",
        f"Record: {_link(name)}",
    ]
    return "".join(f"- {fact}\n" for fact in facts)


def _machine(machine: dict[str, Any], instructions: Sequence[str]) -> str:
    """Accelerator, processor, its cores and instructions, as far as they are recorded."""
    cores = machine.get("cores")
    known = [
        machine.get("accelerator"),
        machine.get("processor"),
        f"{cores} core{'s' * (cores != 1)}" if cores else None,
        *(name.upper().replace("_", "-") for name in instructions),
    ]
    return ", ".join(filter(None, known)) or "not recorded"


def _short_machine(record: dict[str, Any]) -> str:
    """With the last of the instructions only, which is the newest."""
    machine = record["provenance"].get("machine") or {}
    return _machine(machine, (machine.get("instructions") or [])[-1:])


def _threads(machine: dict[str, Any]) -> str:
    threads = machine.get("threads")
    return f"; {threads} thread{'s' * (threads != 1)} of torch" if threads else ""


def _neighbours(machine: dict[str, Any]) -> str:
    share = machine.get("load_by_others")
    return f"; other processes used {100 * share:.0f} % of its cores" if share and machine.get("shared") else ""


def _duration(origin: dict[str, Any]) -> str:
    seconds = origin.get("seconds")
    if not seconds:
        return ""
    return f", in {number(seconds / 60, 2)} minutes" if seconds > 100 else f", in {number(seconds, 2)} seconds"


def _date(record: dict[str, Any]) -> str:
    return str(record["provenance"].get("date") or "not recorded")[:10]


def _script(record: dict[str, Any]) -> str:
    """The script that wrote the record, linked from this page's folder."""
    words = shlex.split(record["provenance"].get("command") or "")
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None:
        return "not recorded"
    return f"[{script}]({script.removeprefix('benchmarks/') if script.startswith('benchmarks/') else f'../{script}'})"


def _link(name: str) -> str:
    return f"[{name}](../docs/results/{name})"


def number(value: float, digits: int = SIGNIFICANT) -> str:
    """So many significant digits, and every digit of a whole number: 1,234,567; 8.10; 0.0313."""
    if isinstance(value, int):
        return f"{value:,}"
    before = math.floor(math.log10(abs(value))) + 1 if value else digits  # the point, less zeros after it
    return f"{value:,.{max(0, digits - before)}f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; columns of numbers are aligned to the right."""
    rows = list(rows)
    numeric = [
        rows and all(_is_number(row[place]) or row[place] is None for row in rows) for place in range(len(columns))
    ]
    lines = [
        _row(columns),
        "|" + "|".join("---:" if is_numeric else "---" for is_numeric in numeric) + "|",
        *(_row(["" if cell is None else cell for cell in row]) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(value: object) -> str:
    text = number(value) if _is_number(value) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page differs")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the JSON records")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write or to check")
    given = parser.parse_args(argv)
    text = page(given.records)
    if not given.check:
        given.page.write_text(text, encoding="utf-8", newline="\n")
    elif not given.page.exists() or given.page.read_text(encoding="utf-8") != text:
        raise UserError(f"{given.page} is not what the records say", "run: python benchmarks/tables.py")


if __name__ == "__main__":
    run_command(main)
