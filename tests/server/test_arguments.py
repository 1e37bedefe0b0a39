"""The options of run_server.py: from the command line and the environment, checked before anything heavy is loaded."""

import subprocess
import sys

import pytest

from helpers.runs import ROOT, mistake
from tinystories.commands.serve import parse
from tinystories.server.arguments import RENAMED, ServerArguments


def test_errors():
    assert "is empty" in mistake(parse, [""])
    assert "did you mean port?" in mistake(parse, ["x", "--prot", "1"])
    assert "port" in mistake(parse, ["x", "--port", "99999"])
    assert "dtype" in mistake(parse, ["x", "--dtype", "int8"])
    assert "max_prompt_characters" in mistake(parse, ["x", "--max_prompt_characters", "0"])
    assert "max_prompt_characters" in mistake(parse, ["x", "--max_prompt_characters", "1000001"])


@pytest.mark.parametrize(
    "wrong", ["*", "null", "app.example.org", "https://app.example.org/", "https://a.b,", "http://*"]
)
def test_origins(wrong):
    """Guards: a wildcard; an address with a path, which no browser sends."""
    assert "is not an origin" in mistake(parse, ["x", "--allowed_origins", wrong])
    several = "https://app.example.org, http://localhost:3000,chrome-extension://abc,http://[::1]:80"
    assert len(parse(["x", "--allowed_origins", several])[1].origins()) == 4


def test_environment(monkeypatch, tmp_path):
    """Every option is a variable too; the command line wins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.setenv("CHECKPOINT_PATH", "runs/mine")
    monkeypatch.setenv("REQUESTS_PER_MINUTE", "3")
    assert parse([])[0] == "runs/mine"
    assert parse([])[1].requests_per_minute == 3
    assert parse(["other", "--requests_per_minute", "4"])[1].requests_per_minute == 4
    monkeypatch.setenv("PORT", "many")
    assert "port" in mistake(parse, ["x"])


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_names(old, new, monkeypatch):
    """Guards: a variable of an old name that sets nothing, and a hint at another option."""
    assert new in ServerArguments.__dataclass_fields__
    for words in ([f"--{old}", "5"], [f"--{old}=5"]):
        assert mistake(parse, ["x", *words]) == f"--{old} is now called --{new}"
    monkeypatch.setenv(old.upper(), "5")
    assert f"{old.upper()} is now called {new.upper()}" in mistake(parse, ["x"])


@pytest.mark.slow
def test_light_import():
    """Guards: seconds of loading before the command line is checked."""
    code = "import sys, tinystories.server.arguments; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "starlette", "fastapi", "uvicorn"} & set(process.stdout.split())
