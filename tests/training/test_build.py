"""Before the first step: a compiler that does not work is reported with its own words, and training continues."""

import pytest
import torch

from tinystories.checks.preflight import Facts, check_compiler
from tinystories.config.recipe import read_recipe
from tinystories.training.build import MESSAGE_END, use_compiler_if_it_works


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with torch_compile, whose environment variables are gone after the test."""
    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, "")
    options = ["--num_sample_stories", "50", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    return read_recipe([*options, "--torch_compile", "true"])


def break_compiler(monkeypatch, message):
    def refuse(function):
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "compile", refuse)


def test_compiler_message(recipe, monkeypatch, caplog):
    """The message is in the log and in the result, on one line, without the advice on debugging."""
    advice = "\n\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this if you report a bug)"
    break_compiler(
        monkeypatch, "InvalidCxxCompiler: No working C++ compiler\n found in cpp.cxx: (None, 'g++')" + advice
    )
    reason = use_compiler_if_it_works(recipe.training)
    assert reason == "RuntimeError: InvalidCxxCompiler: No working C++ compiler found in cpp.cxx: (None, 'g++')"
    assert reason in caplog.text and not recipe.training.torch_compile


def test_long_compiler_message(recipe, monkeypatch):
    """Of what a compiler prints, the beginning and the end are kept."""
    command = "g++ " + "-I/include/folder " * 200
    break_compiler(monkeypatch, f"CppCompileError: C++ compile error\n{command}\nOutput:\nfatal error: no such file")
    reason = use_compiler_if_it_works(recipe.training)
    assert "C++ compile error" in reason and reason.endswith("fatal error: no such file")
    assert len(reason) < 2 * MESSAGE_END + 30


def test_compiler_message_in_preflight(recipe, monkeypatch):
    """The finding of check_run.py contains the compiler's message too."""
    break_compiler(monkeypatch, "No working C++ compiler")
    facts = Facts()
    facts.recipe = recipe
    with pytest.raises(Exception, match="the run will be slower: RuntimeError: No working C\\+\\+ compiler"):
        check_compiler(facts)


def test_compiler_that_was_not_asked_for(recipe, monkeypatch):
    """It is not tried."""
    recipe.training.torch_compile = False
    break_compiler(monkeypatch, "not reached")
    assert use_compiler_if_it_works(recipe.training) is None
