"""Lines of libraries that are left out: those that are named, and no others."""

import importlib.util
import inspect
import subprocess
import sys

import pytest

from helpers.runs import ROOT, run_command
from tinystories.library_noise import NOISE


TALKS = """
import logging, sys, warnings
from tinystories.console import set_up_logging
set_up_logging()
set_up_logging()
for name, lines in {lines!r}.items():
    for line in lines:
        logging.getLogger(name).warning(line + " and its end")
        logging.getLogger(name).warning("A real warning of " + name)
        logging.getLogger(name + ".other").warning(line)
warnings.warn("a deprecated thing", FutureWarning)
"""


@pytest.mark.parametrize("name", NOISE)
def test_the_library_says_it(name):
    """In the installed version: an entry that is out of date leaves out nothing, and would go unnoticed."""
    source = inspect.getsource(importlib.import_module(name))
    assert all(line in source.replace('"\n                    "', "") for line in NOISE[name])


def test_real_warnings_come_through():
    """Of the same logger, of another one with the same text, and of Python; each line that is named is left out."""
    code = TALKS.format(lines=NOISE)
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for name, lines in NOISE.items():
        for line in lines:
            assert f"{line} and its end" not in process.stderr
            assert process.stderr.count(line) == 1, "said by another logger, which is not named"
        assert process.stderr.count(f"A real warning of {name}") == len(lines)
    assert "FutureWarning: a deprecated thing" in process.stderr


@pytest.mark.slow
def test_compiling_without_a_gpu(tmp_path):
    """The line on torchdynamo of transformers came before the first line of every such run."""
    process = run_command("run_clm.py", "--train_file", tmp_path / "none.txt", "--torch_compile", "true")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and "none.txt" in line
