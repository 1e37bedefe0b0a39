"""Import rules that import-linter cannot check, because it knows packages only; its contracts are in pyproject.toml."""

import ast

import pytest

from helpers.runs import ROOT


HUB_FILES = ("configuration_tinystories.py", "modeling_tinystories.py")
OURS = {path.stem for path in ROOT.glob("*.py")} | {"tinystories", "tests", "helpers", "benchmarks", "metrics"}


def imported_by(source: str) -> set[str]:
    """The top-level modules that a source imports absolutely, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_file_imports_nothing_of_ours(name):
    """A checkpoint carries these two files alone: whatever else they import is missing on somebody's machine."""
    siblings = {file.removesuffix(".py") for file in HUB_FILES}
    assert imported_by((ROOT / name).read_text(encoding="utf-8")) & OURS <= siblings


def test_nested_import():
    """An import inside a function is found too."""
    assert imported_by("def f():\n    from tinystories.errors import UserError\n    import run_clm") & OURS == {
        "tinystories",
        "run_clm",
    }
