"""How numbers and rows are shown, on the terminal, on pages and on cards."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar


T = TypeVar("T")


def number(value: Any, digits: int = 4) -> str:
    """Four significant digits, with separators of thousands; a dash for None and what is not finite."""
    if not is_number(value):
        return "–" if value is None or isinstance(value, float) else str(value)  # noqa: RUF001
    if isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}"


def duration(seconds: float | None) -> str:
    """Seconds as "42 s" or "1 d 2 h 3 min"; a dash for None."""
    if seconds is None:
        return "–"  # noqa: RUF001
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part)


def short(value: float, digits: int = 3) -> str:
    """A number of a log line, with so many significant digits: 2.76, 0.449, 12, 1.2e-4."""
    if 1e-3 <= abs(value) < 10**digits - 0.5:
        return f"{value:#.{digits}g}".removesuffix(".")
    return power_of_ten(value, digits) if abs(value) < 1e-3 or abs(value) >= 1e5 else f"{value:.0f}"


def power_of_ten(value: float, digits: int = 2) -> str:
    """0.0039 -> "3.9e-3"."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def short_count(value: float) -> str:
    """Two or three digits: "980", "4.9k", "12k", "1.2M"."""
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def short_duration(seconds: float) -> str:
    """Its two largest units: "42s", "3m46s", "1h05m", "2d03h"."""
    if round(seconds) < 60:
        return f"{seconds:.0f}s"
    if round(seconds) < 3600:
        return "{}m{:02}s".format(*divmod(round(seconds), 60))
    if round(seconds / 60) < 24 * 60:
        return "{}h{:02}m".format(*divmod(round(seconds / 60), 60))
    return "{}d{:02}h".format(*divmod(round(seconds / 3600), 24))


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def cell(estimate: Mapping[str, float] | None, interval: bool = True, digits: int = 3) -> str:
    """An estimate {"value", "low", "high"} as text, with its interval in brackets; "not measured" for None."""
    if estimate is None:
        return "not measured"
    value, low, high = (significant(estimate[key], digits) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if interval else value


def significant(value: float, digits: int = 3) -> str:
    """So many significant digits: "0.0188", "2050"; powers of ten only for what is very small or large."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e7 else text


def energy(kwh: float) -> str:
    """Kilowatt-hours as "0.26 Wh" or "1.2 kWh"."""
    return f"{significant(1000 * kwh, 2)} Wh" if kwh < 0.1 else f"{significant(kwh, 2)} kWh"


def spread(rows: list[T], number: int) -> list[T]:
    """At most `number` of `rows`: the first, the last, and more of the early ones, where a run changes fastest."""
    if len(rows) <= number:
        return rows
    places = {0, len(rows) - 1}
    ratio = len(rows) ** (1 / (number - 1))
    places |= {min(len(rows) - 1, round(ratio**i) - 1) for i in range(number)}
    return [rows[place] for place in sorted(places)]
