"""The options of run_evaluation.py: a mistake is found before anything is loaded."""

import subprocess
import sys

import pytest

from helpers.runs import ROOT, mistake
from tinystories.commands.evaluate import parse
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.text.prompts import PROMPTS


MISTAKES = {
    "no such preset": (["run", "--presets", "wild"], "presets must be some of natural, balanced, conservative, creat"),
    "too many prompts": (["run", "--prompts", "1000"], f"prompts must be at most {len(PROMPTS)}, got 1000"),
    "no pairs": (["run", "--pairs", "0"], "pairs must be at least 1"),
    "a seed twice": (["run", "--seeds", "1", "1"], "seeds must be different"),
    "a checkpoint twice": (["run", "run"], "a checkpoint is named twice"),
    "a judge without a model": (["run", "--judge_url", "http://127.0.0.1:1/v1"], "needs both --judge_url and"),
    "a mistyped option": (["run", "--prompt", "3"], "unknown key 'prompt'; did you mean prompts?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_option(name):
    """A mistake in the options is one line."""
    options, message = MISTAKES[name]
    assert message in mistake(parse, options)


def test_quick():
    """A quick evaluation has lower settings everywhere."""
    quick, full = EvaluationArguments(quick=True).with_quick_limits(), EvaluationArguments()
    assert quick.stories and quick.pairs < full.pairs and quick.max_new_tokens < full.max_new_tokens
    assert len(quick.presets) == len(quick.seeds) == 1
    assert "presets" in mistake(EvaluationArguments, presets=[])


@pytest.mark.slow
def test_light_import():
    """The options are read without torch, transformers or matplotlib, which take seconds to import."""
    code = "import sys, tinystories.evaluation.arguments, tinystories.evaluation.leaderboard; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "matplotlib"} & set(process.stdout.split())
