"""What the pages have in common: self-contained templates, with one style and without script or network."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tinystories.reporting.figures import COLOURS
from tinystories.reporting.format import cell, duration, energy, number, significant


def render(template: str, **values: Any) -> str:
    """templates/`template` as HTML. Every value is escaped: a story may hold anything."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "cell": cell, "words": _words}
    environment.filters |= {"energy": energy, "significant": significant}
    return environment.get_template(template).render(colours=COLOURS, **values)


def _words(key: str) -> str:
    return str(key).replace("_", " ")
