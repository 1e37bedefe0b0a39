"""Dockerfile, .dockerignore and compose.yaml agree with each other and with the server. They are read as files: no
container engine is needed. Each docstring names the mistake that the test guards.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import PurePosixPath

import pytest
import yaml
from fastapi import FastAPI

from helpers.runs import ROOT
from tinystories.commands.serve import parse
from tinystories.config.packaged import BOXED
from tinystories.server.app import add_health
from tinystories.server.arguments import ServerArguments


SETTINGS = {field.name.upper(): field for field in fields(ServerArguments)}
PORT = SETTINGS["PORT"].default


def instructions():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line:
            word, _, rest = line.partition(" ")
            yield word, rest


def those(word):
    return [rest for found, rest in INSTRUCTIONS if found == word]


def tracked():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()


def is_ignored(path):
    """By .dockerignore, as the builder reads it: the last line that matches the path or a folder above it decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        expression = re.sub(r"\\\[(\w+)\\\]", r"[\1]", expression)
        if line and not line.startswith("#") and re.fullmatch(f"{expression}(/.*)?", path):
            ignored = not line.startswith("!")
    return ignored


INSTRUCTIONS = list(instructions())
ENVIRONMENT = dict(word.split("=", 1) for rest in those("ENV") for word in shlex.split(rest))
SOURCES = [source for rest in those("COPY") for source in rest.split()[:-1]]
SERVICE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["tinystories"]


def test_variables():
    """A mistyped variable that sets nothing."""
    known = {*SETTINGS, "CHECKPOINT_PATH", "HF_HOME", "OMP_NUM_THREADS"}
    assert set(ENVIRONMENT) <= known
    assert set(SERVICE["environment"]) <= known


def test_port():
    """A published port on which nothing listens."""
    assert ENVIRONMENT["PORT"] == str(PORT) and those("EXPOSE") == [str(PORT)]
    assert SERVICE["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]


def test_host():
    """127.0.0.1 in a container cannot be reached from outside."""
    assert ENVIRONMENT["HOST"] == "0.0.0.0"


def test_copied_sources():
    """An image that can only be built with files that are not in git, or not at all."""
    files = tracked()
    for source in SOURCES:
        found = [path for path in files if path == source or path.startswith(f"{source}/")]
        assert found and not any(is_ignored(path) for path in found), source


def test_package_is_complete():
    """A module or folder that pyproject.toml names but the image lacks: the installation fails."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert {f"{name}.py" for name in setuptools["py-modules"]} <= set(SOURCES)
    elsewhere = setuptools["package-dir"]
    folders = {elsewhere.get(name, name).split(".")[0] for name in setuptools["packages"]}
    assert folders == {"tinystories", "configs"} and folders <= set(SOURCES)
    for name in ("README.md", "LICENSE", "model_card.md"):  # read by the installation
        assert name in SOURCES


@pytest.mark.parametrize(
    "path",
    ["runs/demo/model.safetensors", ".git/config", "stories.txt", "my-stories/a.txt", ".venv/bin/python", "tests/x.py",
     "docs/figures/x.png", "tinystories/__pycache__/x.cpython-311.pyc", "tinystories/server/__pycache__/x.pyc",
     ".env", "build/lib/tinystories/x.py", ".cache/x"],
)  # fmt: skip
def test_ignored_files(path):
    """Gigabytes sent to the builder, or private stories in a published image."""
    assert is_ignored(path)


def test_command():
    """A shell around the command that does not pass SIGTERM on: stories are cut off after the grace period."""
    (command,) = those("CMD")
    python, script = json.loads(command)
    assert python == "python" and script in SOURCES and (ROOT / script).is_file()
    assert those("STOPSIGNAL") == ["SIGTERM"] and not those("ENTRYPOINT")


def test_user():
    """Requests of strangers handled as root. Spaces run uid 1000."""
    (user,) = those("USER")
    assert user == "1000"
    assert any("--uid 1000 --create-home writer" in rest for rest in those("RUN"))
    home = PurePosixPath("/home/writer")
    assert home in PurePosixPath(ENVIRONMENT["HF_HOME"]).parents
    words = [word for word, _ in INSTRUCTIONS]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))  # it owns no file


def test_health_check():
    """A container that is never healthy, or always, because the route does not exist."""
    (check,) = those("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    app = FastAPI()
    add_health(app, engine=None)
    (path,) = re.findall(r"'GET', '([^']+)'", command[2])
    assert path in {route.path for route in app.routes}


def test_allowed_hosts(monkeypatch):
    """A container that answers pages of other sites, as the server listens to every address there; or one whose health
    check gets 400. The command in docs/server.md sets no variable."""
    command = re.search(
        r"^docker run .* tinystories$", (ROOT / "docs/server.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert " -e " not in command[0] and "-p 127.0.0.1:" in command[0]
    for variables in (ENVIRONMENT, ENVIRONMENT | SERVICE["environment"]):
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert parse(["boxed"])[1].hosts() == ["localhost", "127.0.0.1", "[::1]"]


def test_order_of_layers():
    """torch is downloaded again after a change of one line of code."""
    words = [f"{word} {rest}" for word, rest in INSTRUCTIONS]
    torch = next(i for i, line in enumerate(words) if "TORCH_INDEX" in line and line.startswith("RUN"))
    code = next(i for i, line in enumerate(words) if line.startswith("COPY") and "run_server.py" in line)
    assert torch < code
    assert all("-c constraints.txt" in part for part in words[torch].split("&&") if "pip install" in part)


@pytest.mark.slow
def test_dependencies():
    """A library of the server is missing, or one for development is installed. Runs the Dockerfile's own line."""
    (code,) = [re.search(r'python -c "(.*?)" > requirements', rest) for rest in those("RUN") if "tomllib" in rest]
    process = subprocess.run(
        [sys.executable, "-c", code.group(1)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {re.match(r"[\w-]+", line).group() for line in process.stdout.splitlines()}
    assert {"torch", "transformers", "fastapi", "uvicorn", "prometheus-client", "setuptools"} <= names
    assert not names & {"pytest", "lm-eval", "playwright", "tinystories"}


def test_compose_rights():
    """A compromised container that can write files or gain rights."""
    assert SERVICE["read_only"] and SERVICE["tmpfs"] == ["/tmp"] and SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert SERVICE["mem_limit"] and SERVICE["pids_limit"] and SERVICE["restart"] == "unless-stopped"


def test_compose_mount():
    """A checkpoint that is mounted where the server does not look."""
    (volume,) = SERVICE["volumes"]
    assert volume["target"] == ENVIRONMENT["CHECKPOINT_PATH"] and volume["read_only"]


def test_boxed_model():
    """An image that serves nothing until a checkpoint is mounted; a service whose default folder does not exist."""
    assert f"tinystories/boxed {ENVIRONMENT['CHECKPOINT_PATH']}" in those("COPY")
    (volume,) = SERVICE["volumes"]
    assert volume["source"] == "${CHECKPOINT:-./tinystories/boxed}" and BOXED == ROOT / "tinystories/boxed"


def test_stop_grace_period():
    """A container that is killed before run_server.py ends: it takes 5 seconds more than SHUTDOWN_GRACE_SECONDS. A
    signal to pid 1 needs `init`."""
    grace = int(SERVICE["stop_grace_period"].removesuffix("s"))
    assert grace > SETTINGS["SHUTDOWN_GRACE_SECONDS"].default + 5
    assert SERVICE["init"]
