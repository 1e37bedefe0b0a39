"""Held-out stories that the user names are read by the rules of the run, where no others are given."""

import json
import logging

import pytest

from helpers.runs import mistake
from tinystories.config.keys import ReadingArguments
from tinystories.data.held_out import find_held_out
from tinystories.run_files import Run


@pytest.fixture
def run(tmp_path):
    """A run folder with a recipe of these keys, whose own stories are not there any more."""

    def run(**keys) -> Run:
        (tmp_path / "run").mkdir()
        recipe = {"train_file": str(tmp_path / "gone.txt"), **keys}
        (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
        return Run(tmp_path / "run")

    return run


def stories(run, path, **reading) -> list[str]:
    return list(find_held_out(run, str(path), reading=ReadingArguments(**reading)).stories["text"])


def test_separator_of_the_run(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "held.txt"
    path.write_text("One.\nTwo.\n\nThree.", encoding="utf-8")
    of_lines = run(story_separator="line")
    assert stories(of_lines, path) == ["One.", "Two.", "Three."]
    assert "as the run has read its files: story_separator line" in caplog.text
    assert stories(of_lines, path, story_separator="blank_line") == ["One.\nTwo.", "Three."]


def test_file_of_stories_for_a_run_on_files(run, tmp_path):
    """A run on a folder with a story in each file is measured on a file of many stories, or on such a folder."""
    (tmp_path / "held").mkdir()
    path = tmp_path / "held" / "held.txt"
    path.write_text("One.\n\nTwo.", encoding="utf-8")
    of_files = run(story_separator="file")
    assert stories(of_files, path) == ["One.", "Two."]
    assert stories(of_files, path.parent) == ["One.\n\nTwo."]


def test_column_of_the_run(run, tmp_path):
    """The option that the error names exists where it is said."""
    path = tmp_path / "held.jsonl"
    path.write_text('{"story": "One.", "text": "no"}\n{"text": "Two."}\n', encoding="utf-8")
    of_stories = run(text_column="story")
    message = mistake(find_held_out, of_stories, str(path))
    assert ":2: no field 'story'" in message and "--text_column" in message and "--on_bad_row skip" in message
    assert stories(of_stories, path, on_bad_row="skip") == ["One."]
    assert stories(of_stories, path, text_column="text") == ["no", "Two."]


def test_no_recipe(tmp_path):
    (tmp_path / "held.txt").write_text("One.\n\nTwo.", encoding="utf-8")
    assert stories(Run(tmp_path), tmp_path / "held.txt") == ["One.", "Two."]
