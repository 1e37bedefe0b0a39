"""The keys that are read from the source of transformers are those of the class itself."""

import subprocess
import sys

import pytest

from helpers.runs import ROOT
from tinystories.config import training_keys
from tinystories.config.arguments import RunArguments
from tinystories.config.keys import TrainingDefaults
from tinystories.config.parser import StrictParser
from tinystories.config.training_keys import training_keys as read_keys


LITERAL = (int, float)


def options(keys: type) -> dict:
    """(nargs, constant, type) of each option string; an enumeration is text to the light parser."""
    actions = StrictParser((keys,))._option_string_actions
    return {
        name: (action.nargs, action.const, action.type if action.type in LITERAL else str)
        for name, action in actions.items()
    }


def test_same_options():
    """Each spelling, and whether its value is a number, a list or a flag. A difference would refuse a valid key."""
    light, real = options(read_keys()), options(RunArguments)
    assert list(light) == list(real)
    assert light == real


def test_other_source_falls_back(monkeypatch, tmp_path):
    """A transformers whose class inherits its fields from another one is imported, not half read."""
    source = tmp_path / "training_args.py"
    monkeypatch.setattr(training_keys, "installed_file", lambda package, name: source)
    for text in ("class TrainingArguments(Base):\n    x: int = 1\n", "from elsewhere import TrainingArguments\n"):
        source.write_text(text, encoding="utf-8")
        assert read_keys.__wrapped__() is RunArguments


def test_defaults_of_this_project_are_used():
    assert StrictParser((read_keys(),)).check([]).adam_beta2 == RunArguments.adam_beta2 == 0.95
    assert issubclass(read_keys(), TrainingDefaults)


@pytest.mark.slow
def test_no_heavy_import():
    """What answers a mistyped key imports neither torch nor transformers."""
    code = """
import sys
from tinystories.config.recipe import check_keys
check_keys(["configs/demo.yaml", "--max_steps", "3"])
print(sorted({"torch", "transformers", "numpy", "datasets"} & set(sys.modules)))
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.stdout == "[]\n", process.stderr
