"""Where a model stands: each metric between its floor and its ceiling, as rows that terminal, page and card show.

The ceiling is people's text. The floor is the same network untrained, or the nonsense made of people's text that the
metric is there to expose (text/samples.py), whichever is farther from the ceiling. `standing` is how much of the way
from floor to ceiling the model has gone, cut to [0, 1]; for a metric that should be like people's text, too much is as
bad as too little. Bits per byte have no known ceiling, so no standing. An alarm has none either: a bad value of it is a
fault, and a good one proves nothing (text/metrics.py).
"""

from dataclasses import dataclass
from typing import Any

from tinystories.reporting.format import cell


BAR = 20  # characters
Values = dict[str, dict[str, float] | None]  # name of the metric -> an Estimate as a dict


@dataclass(frozen=True)
class Metric:
    """good: "lower", "higher", or "like human". explanation: one sentence for the reader."""

    name: str
    title: str
    unit: str
    good: str
    explanation: str
    alarm: bool = False


def rows(metrics: list[Metric], model: Values, floors: list[Values], ceiling: Values) -> list[dict[str, Any]]:
    """Of each metric that `model` has: {"name", "title", "unit", "good", "explanation", "value", "floor", "ceiling",
    "standing"}.
    """
    table = []
    for metric in metrics:
        value, top = model.get(metric.name), ceiling.get(metric.name)
        if value is None and not metric.name.startswith("pair_"):  # a rule for which no pair was found is shown as such
            continue
        floor = _farthest(metric, [floor.get(metric.name) for floor in floors], top)
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
    """How much worse than the ceiling; without one, than 0."""
    difference = value["value"] - (ceiling["value"] if ceiling else 0.0)
    if metric.good == "like human":
        return abs(difference)
    return difference if metric.good == "lower" else -difference


def _farthest(metric: Metric, floors: list[dict | None], ceiling: dict | None) -> dict[str, float] | None:
    known = [floor for floor in floors if floor is not None]
    return max(known, key=lambda floor: distance(metric, floor, ceiling), default=None)


def standing(metric: Metric, value: dict, floor: dict | None, ceiling: dict | None) -> float | None:
    """0 at the floor or below, 1 at the ceiling or above; None where either is not known or they are the same."""
    if floor is None or ceiling is None:
        return None
    way = distance(metric, floor, ceiling)
    return min(1.0, max(0.0, 1 - distance(metric, value, ceiling) / way)) if way > 0 else None


def bar(standing: float | None) -> str:
    if standing is None:
        return ""
    filled = round(standing * BAR)
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {standing:4.0%}"


def with_people(row: dict[str, Any] | None) -> str:
    """A value, and beside it that of people at the lengths of this model, where it should be like theirs."""
    if row is None:
        return cell(None)
    people = f", people {cell(row['ceiling'], False)}" if row["good"] == "like human" and row["ceiling"] else ""
    return cell(row["value"]) + people


def as_text(table: list[dict[str, Any]]) -> list[str]:
    """Lines for a terminal, the alarms last."""
    heads = ("", "floor", "this model", "people", "from floor to people")
    table = sorted(table, key=lambda row: row["alarm"])
    lines = [
        (
            row["title"] + (f" ({row['unit']})" if row["unit"] else ""),
            cell(row["floor"], interval=False) if row["floor"] else "-",
            cell(row["value"]),
            cell(row["ceiling"], interval=False) if row["ceiling"] else "-",
            "an alarm: proves nothing if good" if row["alarm"] else bar(row["standing"]),
        )
        for row in table
    ]
    return aligned([heads, *lines])


def side_by_side(names: list[str], tables: list[list[dict[str, Any]]]) -> list[str]:
    """Several models, metric by metric; a metric that one of them lacks is "not measured" there."""
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


def aligned(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
