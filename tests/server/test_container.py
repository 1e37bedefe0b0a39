"""Dockerfile, .dockerignore and compose.yaml hold together, and with the server; read as files, no engine is needed.

Each test names the mistake it guards.
"""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import PurePosixPath

import pytest
import yaml
from fastapi import FastAPI

from helpers.runs import ROOT
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
    """By .dockerignore, as the builder reads it: the last line that fits the path or a folder above it decides."""
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


def test_every_variable_is_one_that_the_server_reads():
    """A mistyped variable would set nothing, in silence."""
    known = {*SETTINGS, "CHECKPOINT_PATH", "HF_HOME", "OMP_NUM_THREADS"}
    assert set(ENVIRONMENT) <= known
    assert set(SERVICE["environment"]) <= known


def test_the_port_is_the_same_everywhere():
    """A published port behind which nothing listens."""
    assert ENVIRONMENT["PORT"] == str(PORT) and those("EXPOSE") == [str(PORT)]
    assert SERVICE["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]


def test_the_server_listens_to_more_than_the_container_itself():
    """127.0.0.1 inside a container is reached by no one."""
    assert ENVIRONMENT["HOST"] == "0.0.0.0"


def test_every_source_is_in_git_and_reaches_the_builder():
    """An image that builds only where somebody's own files lie about, or not at all."""
    files = tracked()
    for source in SOURCES:
        found = [path for path in files if path == source or path.startswith(f"{source}/")]
        assert found and not any(is_ignored(path) for path in found), source


def test_the_whole_package_is_copied():
    """A module that the installed package names and the image lacks."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    modules = re.search(r"py-modules = \[(.*)\]", project).group(1)
    assert {f"{name}.py" for name in re.findall(r'"(\w+)"', modules)} <= set(SOURCES)
    for name in ("README.md", "LICENSE", "model_card.md"):  # read by the installation
        assert name in SOURCES


@pytest.mark.parametrize(
    "path",
    ["runs/demo/model.safetensors", ".git/config", "stories.txt", "my-stories/a.txt", ".venv/bin/python", "tests/x.py",
     "docs/figures/x.png", "tinystories/__pycache__/x.cpython-311.pyc", "tinystories/server/__pycache__/x.pyc",
     ".env", "build/lib/tinystories/x.py", ".cache/x"],
)  # fmt: skip
def test_runs_caches_and_data_do_not_reach_the_builder(path):
    """Gigabytes sent to the builder, or private stories inside a published image."""
    assert is_ignored(path)


def test_the_command_exists_and_gets_signals():
    """A shell around the command would swallow SIGTERM, and stories would be cut off after the grace period."""
    (command,) = those("CMD")
    python, script = json.loads(command)
    assert python == "python" and script in SOURCES and (ROOT / script).is_file()
    assert those("STOPSIGNAL") == ["SIGTERM"] and not those("ENTRYPOINT")


def test_the_user_is_not_root():
    """A server of strangers' requests as root; Spaces run uid 1000."""
    (user,) = those("USER")
    assert user == "1000"
    assert any("--uid 1000 --create-home batcher" in rest for rest in those("RUN"))
    home = PurePosixPath("/home/batcher")
    assert home in PurePosixPath(ENVIRONMENT["HF_HOME"]).parents
    words = [word for word, _ in INSTRUCTIONS]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))  # nothing is its own


def test_the_health_check_asks_a_route_that_exists():
    """A container that is never healthy, or always."""
    (check,) = those("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    app = FastAPI()
    add_health(app, engine=None)
    (path,) = re.findall(r"'GET', '([^']+)'", command[2])
    assert path in {route.path for route in app.routes}


def test_the_health_check_may_ask():
    """ALLOWED_HOSTS without the name that the health check uses answers it with 400."""
    assert "127.0.0.1" in SERVICE["environment"]["ALLOWED_HOSTS"].split(",")


def test_the_dependencies_come_before_the_sources():
    """A change of a line of code would download torch again."""
    words = [f"{word} {rest}" for word, rest in INSTRUCTIONS]
    torch = next(i for i, line in enumerate(words) if "TORCH_INDEX" in line and line.startswith("RUN"))
    code = next(i for i, line in enumerate(words) if line.startswith("COPY") and "run_server.py" in line)
    assert torch < code
    assert all("-c constraints.txt" in part for part in words[torch].split("&&") if "pip install" in part)


def test_the_dependencies_are_those_of_the_server():
    """The line of the Dockerfile that reads pyproject.toml, carried out: what is installed, and what is not."""
    (code,) = [re.search(r'python -c "(.*?)" > requirements', rest) for rest in those("RUN") if "tomllib" in rest]
    process = subprocess.run(
        [sys.executable, "-c", code.group(1)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {re.match(r"[\w-]+", line).group() for line in process.stdout.splitlines()}
    assert {"torch", "transformers", "fastapi", "uvicorn", "prometheus-client", "setuptools"} <= names
    assert not names & {"pytest", "lm-eval", "playwright", "tinystories"}


def test_compose_takes_rights_away():
    """A container that is broken into must have nothing to write to and no right to gain."""
    assert SERVICE["read_only"] and SERVICE["tmpfs"] == ["/tmp"] and SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert SERVICE["mem_limit"] and SERVICE["pids_limit"] and SERVICE["restart"] == "unless-stopped"


def test_compose_mounts_the_checkpoint_where_the_server_looks():
    (volume,) = SERVICE["volumes"]
    assert volume["target"] == ENVIRONMENT["CHECKPOINT_PATH"] and volume["read_only"]


def test_stories_may_end_before_the_container_is_killed():
    """run_server.py gives answers five seconds more than SHUTDOWN_GRACE_SECONDS; a signal to pid 1 needs `init`."""
    grace = int(SERVICE["stop_grace_period"].removesuffix("s"))
    assert grace > SETTINGS["SHUTDOWN_GRACE_SECONDS"].default + 5
    assert SERVICE["init"]
