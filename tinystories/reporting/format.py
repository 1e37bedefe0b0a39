"""Numbers as people read them: one format for terminal, page and card."""

import math
from pathlib import Path
from typing import Any


TEMPLATES = Path(__file__).parent / "templates"


def number(value: Any, digits: int = 4) -> str:
    """As people read it: four significant digits, thousands set apart; a dash for none."""
    if not is_number(value):
        return "–" if value is None or isinstance(value, float) else str(value)  # noqa: RUF001
    if isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"  # noqa: RUF001
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def cell(estimate: dict[str, float] | None, interval: bool = True) -> str:
    """An estimate as text; "not measured" of none, never a blank."""
    if estimate is None:
        return "not measured"
    short = f"{estimate['value']:.3g}"
    return f"{short} [{estimate['low']:.3g}, {estimate['high']:.3g}]" if interval else short
