"""The page of an evaluation: the metrics of each model between floor and ceiling, and the stories side by side."""

from pathlib import Path
from typing import Any

from tinystories.atomic import write_atomically
from tinystories.reporting.pages import render


def write_page(results: list[dict[str, Any]], folder: Path) -> Path:
    """Write folder/index.html from the results (suite.result) of one model or several; returns its path."""
    path = folder / "index.html"
    page = render("evaluation.html", results=results, stories=first_stories(results), meanings=meanings_of(results))
    write_atomically(path, page)
    return path


def meanings_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{"title", "row"}]: each explanation once, with the first row that has it. Minimal pairs have one together."""
    rows = {row["name"]: row for found in results for row in found["table"]}
    by_explanation: dict[str, list[dict[str, Any]]] = {}
    for row in rows.values():
        by_explanation.setdefault(row["explanation"], []).append(row)
    return [
        {"title": of[0]["title"] if len(of) == 1 else of[0]["title"].split(",")[0].split(":")[0], "row": of[0]}
        for of in by_explanation.values()
    ]


def first_stories(results: list[dict[str, Any]], number: int = 6) -> list[dict[str, Any]]:
    """What every model wrote for each of the first prompts, with the first seed.

    Returns [{"prompt", "seed", "stories": [{"model", "preset", "text", ...}]}].
    """
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
