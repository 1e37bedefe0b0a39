"""The command `tinystories`, how commands call themselves, and what they import before they know that they need it."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from helpers.runs import ROOT, load_benchmark, mistake, run_command
from tinystories.commands import generate
from tinystories.commands.main import COMMANDS, dispatch
from tinystories.console import SCRIPTS, command_name, program_name, shell_line


HEAVY = {"torch", "transformers", "accelerate", "datasets", "matplotlib", "fastapi", "uvicorn"}
# The same command lines that are timed: each is right but for one mistyped key.
TIMED = load_benchmark("command_start").MISTYPED
MISTYPED = {command: TIMED[script] for command, script in SCRIPTS.items()} | {"chat": ["runs/demo", "--sed", "1"]}


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_lists_the_commands(capsys):
    dispatch(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        assert len([line for line in lines if line.startswith(f"  {name} ")]) == 1
    assert set(COMMANDS) == {*SCRIPTS, "chat"} and max(map(len, lines)) <= 80


@pytest.mark.parametrize(("command", "script"), SCRIPTS.items())
def test_script_says_what_its_command_says(command, script):
    """A script repeats the docstring of its command, for readers of the top level; one of the two was changed alone."""
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in (script, f"tinystories/commands/{command}.py")]
    first, second = (ast.get_docstring(ast.parse(text)) for text in texts)
    assert first == second


def test_unknown_command():
    assert mistake(dispatch, ["evalute"]) == "unknown command 'evalute'; did you mean evaluate?"
    assert "the commands are train, tokenizer" in mistake(dispatch, ["xyzzy"])


def test_version(capsys):
    dispatch(["--version"])
    assert capsys.readouterr().out.startswith("tinystories ")


def test_command_names(monkeypatch):
    """Messages name a command as the user started it: as a script or as a subcommand."""
    monkeypatch.setattr("sys.argv", ["some/folder/run_clm.py", "demo"])
    assert program_name("train") == "run_clm.py" and command_name("generate") == "python run_generation.py"
    monkeypatch.setattr("sys.argv", ["/usr/bin/tinystories", "train"])
    assert program_name("train") == command_name("train") == "tinystories train"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        dispatch([command, "--help"])
    except SystemExit as ended:
        assert not ended.code
    text = capsys.readouterr().out
    assert f"tinystories {command}" in text and ".py" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_mistyped_key(command):
    assert "did you mean " in mistake(dispatch, [command, *MISTYPED[command]])


@pytest.mark.slow
def test_imports_stay_light():
    """Neither `--help` nor a mistyped key waits for torch; one process tries them all."""
    code = f"""
import contextlib, io, sys
from tinystories.commands.main import dispatch
from tinystories.errors import UserError
for command, mistyped in {MISTYPED!r}.items():
    for arguments in (["--help"], mistyped):
        with contextlib.suppress(SystemExit, UserError), contextlib.redirect_stdout(io.StringIO()):
            dispatch([command, *arguments])
print(sorted({HEAVY!r} & set(sys.modules)))
"""
    process = run("-c", code)
    assert process.stdout == "[]\n", process.stderr


@pytest.mark.slow
def test_module_and_script():
    """Exit status 1 and one line, each under the name that was typed."""
    for start in (["-m", "tinystories", "train"], ["run_clm.py"]):
        process = run(*start, "configs/demo.yaml", "--learnin_rate", "1")
        assert process.returncode == 1
        assert process.stderr == "error: unknown key 'learnin_rate'; did you mean learning_rate?\n"
    assert "usage: tinystories train RECIPE" in run("-m", "tinystories", "train", "--help").stdout
    assert "usage: python run_clm.py RECIPE" in run("run_clm.py", "--help").stdout


def test_installation_hints():
    """An extra that pyproject.toml does not have would install nothing."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tinystories").rglob("*.py"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra for words in re.findall(r'install_hint\("([\w,]+)"\)', sources) for extra in words.split(",")}
    assert named and named <= set(extras)


def test_start_on_record():
    """docs/results/command_start.json: every command, each answer within a second of processor time."""
    record = json.loads((ROOT / "docs/results/command_start.json").read_text(encoding="utf-8"))
    seconds = record["this"]["processor_seconds"]
    assert set(seconds) == set(SCRIPTS.values())
    assert all(0 < value < 1 for times in seconds.values() for value in times.values())


@pytest.mark.parametrize(
    "words",
    [("my runs/demo", 'She said "hi" and $HOME'), ("-demo", "--debug"), ("it's", "two\nlines \\"), ("~", "*")],
    ids=str,
)
def test_printed_command(words, monkeypatch, tmp_path):
    """A shell and the parser read back what was printed, whatever the names of folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs" / "demo").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["run_clm.py"])
    line = shell_line("generate", *words, options=["--seed", "3"])
    typed = shlex.split(line)
    assert typed[:2] == ["python", "run_generation.py"]
    if words[0] != "~":
        arguments = generate.parse(typed[2:])
        assert (arguments.checkpoint, arguments.prompt, arguments.seed) == (*words, 3)


@pytest.mark.slow
def test_command_that_a_run_prints(counting_run):
    (line,) = [line for line in (counting_run / "stdout.txt").read_text().splitlines() if "Write more: " in line]
    process = run_command(*shlex.split(line.removeprefix("Write more: "))[1:], "--greedy")
    assert process.returncode == 0 and process.stdout.startswith("Story 7. one two three")


@pytest.mark.slow
def test_debug_as_a_text(counting_run):
    """After `--`, `--debug` is no option."""
    process = run_command("run_generation.py", "--max_new_tokens", "1", "--", counting_run, "--debug")
    assert process.returncode == 0 and process.stdout.startswith("--debug"), process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["1", "40"])
def test_help_where_nothing_works(columns, tmp_path):
    """No network, no home folder, no character beyond ASCII, and a terminal of few columns."""
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "home")
    code = """
import contextlib
from tinystories.commands.main import COMMANDS, dispatch
from tinystories.console import run_command
def main(argv):
    for command in COMMANDS:
        with contextlib.suppress(SystemExit):
            dispatch([command, "--help"])
    print("caf\\xe9")
run_command(main)
"""
    environment = {"HOME": nowhere, "HF_HOME": nowhere, "HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": columns}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=os.environ | environment)
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.isascii() and process.stdout.endswith(b"caf\\xe9" + os.linesep.encode())


@pytest.mark.parametrize(
    ("set_by_user", "found"),
    [
        ({}, "PASSIVE None None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None None"),
        ({"GOMP_SPINCOUNT": "0"}, "None 0 None"),
        ({"KMP_BLOCKTIME": ""}, "None None "),
    ],
)
def test_wait_policy(set_by_user, found, tmp_path):
    """Guards: a policy that is set after torch has read it; one that replaces the user's own."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    (tmp_path / "torch.py").write_text(f"import os\nprint(*map(os.environ.get, {names}), flush=True)\nos._exit(0)\n")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    process = subprocess.run(
        [sys.executable, "run_generation.py", "someone/model", "Once"],
        env=environment | {"PYTHONPATH": str(tmp_path)} | set_by_user,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout.strip("\n") == found, process.stderr
