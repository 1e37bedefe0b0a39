"""A compiler that does not work is reported with its own words, and no run uses what a killed one has half compiled."""

import shutil
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from helpers.forked import fork_command
from helpers.runs import mistake
from tinystories.checks.preflight import Facts, check_compiler
from tinystories.config.recipe import read_recipe
from tinystories.training.compiler import MESSAGE_END, compiler_cache, use_compiler_if_it_works


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with torch_compile, whose environment variables are gone after the test."""
    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, "")
    options = ["--num_sample_stories", "50", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    return read_recipe([*options, "--torch_compile", "true"])


def break_compiler(monkeypatch, message):
    def refuse(function, backend):
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
    with (
        ExitStack() as facts.stack,
        pytest.raises(Exception, match="the run will be slower: RuntimeError: No working C\\+\\+ compiler"),
    ):
        check_compiler(facts)


def test_compiler_that_was_not_asked_for(recipe, monkeypatch):
    """It is not tried."""
    recipe.training.torch_compile = False
    break_compiler(monkeypatch, "not reached")
    assert use_compiler_if_it_works(recipe.training) is None


# What torch keeps between runs

COMPILE = """
import os, sys, torch
import torch._inductor.config as inductor
from types import SimpleNamespace
from tinystories.console import set_up_logging
from tinystories.errors import UserError
from tinystories.training.compiler import compiler_cache

set_up_logging()
inductor.cpp_cache_precompile_headers = inductor.cpp.vec_isa_ok = False  # compile the kernel and nothing beside it
def double(x):
    return x * 2 + 1
try:
    with compiler_cache(SimpleNamespace(torch_compile=True)):
        x = torch.arange(8.0)
        assert torch.equal(torch.compile(double)(x), double(x))
        print(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        if sys.argv[1] == "killed":
            sys.stdout.flush()
            os._exit(9)
        if sys.argv[1] == "mistake":
            raise UserError("of the user")
except UserError:
    pass
"""
compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")


@pytest.fixture
def compile_something(tmp_path):
    """Compile in a process of its own that ends in some way; gives the cache it used, and what it said."""
    script = tmp_path / "compile_something.py"
    script.write_text(COMPILE, encoding="utf-8")

    def compile_something(end: str = "well"):
        process = fork_command(script, end, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
        assert process.returncode == (9 if end == "killed" else 0), process.stderr
        return process.stdout.strip(), process.stderr

    return compile_something


@pytest.mark.slow
@compiler
def test_kernels_that_a_killed_run_left(compile_something, tmp_path):
    """A kernel library that was being written when the run was killed is not loaded, and only what is whole is kept."""

    def libraries():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")}

    folder, _ = compile_something("killed")
    assert libraries()
    for library in libraries():
        library.write_bytes(b"")
    again, said = compile_something("mistake")
    assert again == folder and "was left by a killed run" in said
    kept = libraries()
    again, said = compile_something()
    assert again == folder and not said and libraries() == kept  # nothing was compiled again


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    """One line that names the variable, not the option of another cache."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))

    def enter() -> None:
        with compiler_cache(SimpleNamespace(torch_compile=True)):
            pass

    assert "set TORCHINDUCTOR_CACHE_DIR to a folder that may be written to" in mistake(enter)
