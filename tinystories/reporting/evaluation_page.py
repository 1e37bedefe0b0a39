"""The page of an evaluation: where each model stands, and their stories side by side. No network, no script."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tinystories.reporting.figures import COLOURS
from tinystories.reporting.format import TEMPLATES, cell, number


def write_page(results: list[dict[str, Any]], folder: Path) -> Path:
    """folder/index.html of the results of one model or several (suite.result)."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,  # a story may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "cell": cell}
    page = environment.get_template("evaluation.html").render(
        results=results, colours=COLOURS, stories=side_by_side(results)
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def side_by_side(results: list[dict[str, Any]], number: int = 6) -> list[dict[str, Any]]:
    """Of the first prompts, with the first seed: {"prompt", "seed", "stories": [{"model", "preset", "text", ...}]}."""
    first = next(iter(results[0]["samples"].values()))
    rows = []
    for prompt, seed in [(sample["prompt"], sample["seed"]) for sample in first[:number]]:
        stories = [
            {"model": found["model"]["model"], **sample}
            for found in results
            for group in found["samples"].values()
            for sample in group
            if (sample["prompt"], sample["seed"]) == (prompt, seed)
        ]
        rows.append({"prompt": prompt, "seed": seed, "stories": stories})
    return rows
