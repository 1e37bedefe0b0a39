"""Recipes by name: which file a name means, and the message for an unknown one."""

import tomllib

import pytest

from helpers.runs import ROOT, mistake
from tinystories.config import packaged
from tinystories.config.packaged import find_recipe, recipe_names


CONFIGS = ROOT / "configs"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("demo", "demo.yaml"),
        ("demo.yaml", "demo.yaml"),
        ("configs/demo.yaml", "demo.yaml"),
        ("tinystories-1m", "ladder/tinystories-1m.yaml"),
        ("ladder/tinystories-0.25m", "ladder/tinystories-0.25m.yaml"),
        ("configs/ladder/tinystories-1m.yaml", "ladder/tinystories-1m.yaml"),
    ],
)
def test_name_of_a_packaged_recipe(name, file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == CONFIGS / file


def test_existing_file_wins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed: 1", encoding="utf-8")
    assert find_recipe("demo").resolve() == tmp_path / "demo"


def test_names_are_distinct():
    """A name means one file; the files for accelerate are not recipes."""
    names = recipe_names()
    assert len(set(names)) == len(names) == len([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("ladder/*.yaml")])
    assert "one_gpu" not in names


def test_unknown_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert mistake(find_recipe, "tinystories-2m").endswith("did you mean tinystories-42m?")
    assert mistake(find_recipe, "configs/dmo.yaml").endswith("did you mean demo?")
    assert f"recipes by name: {', '.join(recipe_names())}" in mistake(find_recipe, "xyzzy")


def test_wheel_has_its_own_copy(monkeypatch, tmp_path):
    """An installed package reads tinystories/recipes, which a checkout does not have."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "only.yaml").write_text("seed: 1", encoding="utf-8")
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path)
    assert recipe_names() == ["only"]


def test_wheel_carries_every_recipe():
    """configs/ is the single source: pyproject maps the folder to tinystories.recipes, with all files in it."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert setuptools["package-dir"]["tinystories.recipes"] == CONFIGS.name
    assert "tinystories.recipes" in setuptools["packages"]
    carried = {path for pattern in setuptools["package-data"]["tinystories.recipes"] for path in CONFIGS.glob(pattern)}
    assert carried == {path for path in CONFIGS.rglob("*") if path.is_file()}


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "tinystories").rglob("__init__.py")}
    names = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert names == set(listed) - {"tinystories.recipes", "tinystories.boxed"}


def test_wheel_carries_the_whole_boxed_model():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "tinystories.boxed" in setuptools["packages"]
    assert setuptools["package-data"]["tinystories.boxed"] == ["*"]
    assert all(path.is_file() for path in packaged.BOXED.iterdir() if path.name != "__pycache__")
