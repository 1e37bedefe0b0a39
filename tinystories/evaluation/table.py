"""Each metric of a model between its floor and its ceiling, as rows that terminal, page and card show.

The ceiling is people's text. The floor is the untrained network, or the nonsense that the metric must expose
(text/samples.py), whichever is farther from the ceiling. `standing` is the share of the way from floor to ceiling that
the model has covered, clipped to [0, 1]. For a metric that should be like people's text, too much is as bad as too
little. Bits per byte have no known ceiling, so they have no standing. Neither has an alarm: a bad value is a fault, but
a good one proves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tinystories.reporting.format import cell


Good = Literal["lower", "like human", "higher"]
LOWER: Good = "lower"
LIKE_HUMAN: Good = "like human"
HIGHER: Good = "higher"

BAR = 20  # characters
Values = dict[str, dict[str, float] | None]  # name of the metric -> an Estimate as a dict
Row = dict[str, Any]  # what `rows` makes of a metric


@dataclass(frozen=True)
class Metric:
    """good: which values are good. explanation: one phrase for the reader.

    alarm: a value far from people's is a fault, but a good value proves nothing, since a model that has learnt nothing,
    or the wrong thing, may have it too. Alarms are shown apart.
    """

    name: str
    title: str
    unit: str
    good: Good
    explanation: str
    alarm: bool = False


def rows(metrics: Sequence[Metric], model: Values, floors: Sequence[Values], ceiling: Values) -> list[Row]:
    """For each metric of `model`: {"name", "title", "unit", "good", "explanation", "value", "floor", "ceiling",
    "alarm", "standing"}. A rule of the minimal pairs without pairs gets a row with the value None.
    """
    table = []
    for metric in metrics:
        value, top = model.get(metric.name), ceiling.get(metric.name)
        if value is None and not metric.name.startswith("pair_"):
            continue
        floor = farthest(metric, [floor.get(metric.name) for floor in floors], top)
        table.append(
            {
                "name": metric.name,
                "title": metric.title,
                "unit": metric.unit,
                "good": metric.good,
                "explanation": metric.explanation,
                "value": value,
                "floor": floor,
                "ceiling": top,
                "alarm": metric.alarm,
                "standing": None if metric.alarm or value is None else standing(metric, value, floor, top),
            }
        )
    return table


def distance(metric: Metric, value: dict[str, float], ceiling: dict[str, float] | None) -> float:
    """How much worse `value` is than the ceiling, or than 0 if there is no ceiling."""
    difference = value["value"] - (ceiling["value"] if ceiling else 0.0)
    if metric.good == LIKE_HUMAN:
        return abs(difference)
    return difference if metric.good == LOWER else -difference


def farthest(metric: Metric, floors: list[dict | None], ceiling: dict | None) -> dict[str, float] | None:
    """The floor that is farther from the ceiling; None if none is known."""
    known = [floor for floor in floors if floor is not None]
    return max(known, key=lambda floor: distance(metric, floor, ceiling), default=None)


def standing(metric: Metric, value: dict, floor: dict | None, ceiling: dict | None) -> float | None:
    """0 at the floor or below, 1 at the ceiling or above; None if either is unknown or they are equal."""
    if floor is None or ceiling is None:
        return None
    way = distance(metric, floor, ceiling)
    return min(1.0, max(0.0, 1 - distance(metric, value, ceiling) / way)) if way > 0 else None


def bar(standing: float | None) -> str:
    """`standing` as a bar of characters; empty for None."""
    if standing is None:
        return ""
    filled = round(standing * BAR)
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {standing:4.0%}"


def with_people(row: Row | None) -> str:
    """A value; if it should be like people's, with theirs at the lengths of this model's stories."""
    if row is None:
        return cell(None)
    people = f", people {cell(row['ceiling'], False)}" if row["good"] == LIKE_HUMAN and row["ceiling"] else ""
    return cell(row["value"]) + people


def as_text(table: list[Row]) -> list[str]:
    """Lines for a terminal, the alarms last."""
    heads = ("", "floor", "this model", "people", "from floor to people")
    table = sorted(table, key=lambda row: row["alarm"])
    lines = [
        (
            row["title"] + (f" ({row['unit']})" if row["unit"] else ""),
            cell(row["floor"], interval=False) if row["floor"] else "-",
            cell(row["value"]),
            cell(row["ceiling"], interval=False) if row["ceiling"] else "-",
            "alarm: a good value proves nothing" if row["alarm"] else bar(row["standing"]),
        )
        for row in table
    ]
    return aligned([heads, *lines])


def comparison_as_text(names: Sequence[str], tables: Sequence[list[Row]]) -> list[str]:
    """Lines for a terminal, a column for each model; a metric that a model lacks is "not measured" there."""
    by_name = [{row["name"]: row for row in table} for table in tables]
    first = {name: row for known in reversed(by_name) for name, row in known.items()}
    order = [row["name"] for row in max(tables, key=len)]
    lines = [
        (
            first[name]["title"] + (f" ({first[name]['unit']})" if first[name]["unit"] else ""),
            *(with_people(known.get(name)) for known in by_name),
        )
        for name in order
    ]
    return aligned([("", *names), *lines])


def aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
