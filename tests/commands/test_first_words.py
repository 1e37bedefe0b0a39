"""The first minute: a command without arguments, a recipe or file that is none, an extra that is missing."""

import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

import pytest

from helpers.runs import ROOT, mistake
from tinystories.commands import check, evaluate, export, generate, push
from tinystories.commands.main import COMMANDS, FAMILIAR, dispatch
from tinystories.commands.shortest import MISSING
from tinystories.config.packaged import packaged_recipe
from tinystories.config.recipe import check_keys
from tinystories.errors import install_hint


PARSERS = {
    "train": check_keys,
    "evaluate": evaluate.parse,
    "export": export.parse,
    "push": push.parse,
    "generate": generate.parse,
    "check": lambda words: packaged_recipe(*words) or mistake(check.main, words),
}


def shortest(message: str) -> list[str]:
    _, _, rest = message.partition(" is ")
    line = rest.partition(" is ")[2] or rest
    return shlex.split(line.partition("; ")[0].split(" is ")[-1])


@pytest.mark.parametrize("command", MISSING)
@pytest.mark.parametrize("trained", [False, True])
def test_without_arguments(command, trained, monkeypatch, tmp_path):
    """One line, with a command that is right as it stands: with the run of the README where it is here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tinystories"])
    if trained:
        (tmp_path / "runs/demo").mkdir(parents=True)
    message = mistake(dispatch, [command])
    assert message.startswith("no ") and message.endswith("; --help lists the options")
    words = shortest(message)
    assert words[:2] == ["tinystories", command]
    assert any(word in ("demo", "boxed", "runs/demo", "--num_sample_stories") for word in words)
    assert ("boxed" in words) is (command in ("evaluate", "report", "export", "push") and not trained)
    if command in PARSERS:
        PARSERS[command](words[2:])


def test_program_without_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tinystories"])
    message = mistake(dispatch, [])
    assert message.startswith("no command is named")
    words = shortest(message)
    assert words[:2] == ["tinystories", "generate"] and generate.parse(words[2:]).checkpoint == "boxed"


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [(name, remedy) for names, remedy in FAMILIAR.items() for name in names.split()]
    + [("ps", "the commands are train"), ("tarin", "did you mean train?"), ("evaluat", "did you mean evaluate?")],
)
def test_command_of_another_program(typed, remedy, monkeypatch):
    """`push` was offered for `ps`. What is named is a command."""
    message = mistake(dispatch, [typed])
    assert message.startswith(f"unknown command {typed!r}; {remedy}")
    named = re.findall(r"tinystories ([a-z]+)", remedy)
    assert set(named) <= set(COMMANDS)


def test_script_without_arguments(monkeypatch):
    """A script calls itself a script."""
    monkeypatch.setattr("sys.argv", ["run_clm.py"])
    assert "the shortest command that works is python run_clm.py demo;" in mistake(dispatch, ["train"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["push", "boxed"], "repo_id is missing; write tinystories push CHECKPOINT REPO_ID"),
        (["check", "--clean", "x.txt"], "--data is missing; write tinystories check --data"),
        (["export", "boxed"], "--format names no format"),
        (["train", "dmeo"], "cannot read the recipe dmeo: no such file; did you mean demo?"),
        (["train", "folder"], "folder is a folder, and a recipe is a file; recipes by name: demo, finetune"),
        (["train", "run"], "run is a folder, and a recipe is a file; its recipe is run/recipe.json"),
        (["train", "stories.txt"], "stories.txt is a text, and a recipe a YAML file; write --train_file stories.txt"),
        (
            ["train", "boxed"],
            "boxed is a model, and a recipe is a file; to fine-tune it: finetune --model_name_or_path boxed",
        ),
        (
            ["train", "texts"],
            "texts is a folder, and a recipe is a file; the stories of a folder are --train_file texts",
        ),
        (
            ["train", "model"],
            "model is a folder, and a recipe is a file; to fine-tune it: finetune --model_name_or_path m",
        ),
        (["train", "me/TinyStories"], "cannot read the recipe me/TinyStories: no such file; a dataset of the Hub is"),
        (
            ["generate", "https://huggingface.co/me/x", "Once"],
            "https://huggingface.co/me/x is an address; the id of it",
        ),
        (["train", "empty.yaml"], "empty.yaml must contain 'key: value' lines, and is empty"),
        (["generate", "stories.txt", "Once"], "stories.txt is a file, and a checkpoint is a folder; name a run folder"),
        (["train", "finetune", "folder"], "unexpected 'folder'; write --train_file folder"),
        (["train", "demo", "fast"], "unexpected 'fast'; options are written --key value, with quotes around spaces"),
        (
            ["train", "demo", "--train_file", "my", "folder"],
            "unexpected 'folder' after train_file, which takes one value",
        ),
        (
            ["finetune", "--seed", "2"],
            "unknown command 'finetune'; it is a recipe: write tinystories train finetune --seed 2",
        ),
        (["evaluate", "boxed", "stories.txt"], "stories.txt is a file, and a checkpoint is a folder"),
    ],
)
def test_wrong_kind_of_file(words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tinystories"])
    (tmp_path / "folder").mkdir()
    for name in ("run", "texts", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts/a.txt").touch()
    (tmp_path / "model/config.json").touch()
    (tmp_path / "run/recipe.json").write_text("{}", encoding="utf-8")
    for name in ("stories.txt", "empty.yaml"):
        (tmp_path / name).touch()
    found = mistake(dispatch, words)
    assert found.replace("\\", "/").startswith(message), found


def test_folder_named_as_a_recipe(monkeypatch, tmp_path):
    """`demo` is the recipe still."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    check_keys(["demo"])


def test_mistyped_recipe_of_a_check(monkeypatch, tmp_path, offline):
    monkeypatch.chdir(tmp_path)
    assert mistake(dispatch, ["check", "dmeo"]).endswith("; or did you mean the recipe demo?")


def test_installation_line(monkeypatch):
    """For what is installed, a wheel or a checkout, its name; for a checkout that is not, its folder."""
    monkeypatch.setattr(metadata, "version", lambda name: "1")
    assert install_hint("web") == 'python -m pip install "tinystories[web]"'

    def absent(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", absent)
    assert install_hint("web") == 'python -m pip install -e ".[web]" in the folder of this project'


def test_python_without_the_libraries(tmp_path):
    """The environment is not activated: one line, and no traceback of the first library that is missing."""
    words = [sys.executable, "-S", ROOT / "run_clm.py", "demo"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert process.returncode == 1 and process.stderr.startswith("error: the project is not installed for "), process
    assert len(process.stderr.splitlines()) == 1


def test_server_without_its_extra(monkeypatch):
    for module in ("fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, module, None)
    assert mistake(dispatch, ["serve", "boxed"]) == f"the server needs fastapi; {install_hint('web')}"
