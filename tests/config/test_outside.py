"""Words from outside, in every option of every command: paths without `~`, text in UTF-8."""

import contextlib
import os
from pathlib import Path

import pytest

from helpers.runs import load_benchmark, mistake
from tinystories.commands.main import COMMANDS, dispatch
from tinystories.config.outside import TEXTS, from_outside
from tinystories.config.parser import StrictParser
from tinystories.config.recipe import read_recipe
from tinystories.console import SCRIPTS
from tinystories.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.fixture
def parsers(monkeypatch) -> dict[str, list[StrictParser]]:
    """Those that each command makes on its way to a mistyped key, or to its help."""
    made: list[StrictParser] = []
    initialize = StrictParser.__init__

    def note(self, *args, **kwargs):
        made.append(self)
        initialize(self, *args, **kwargs)

    monkeypatch.setattr(StrictParser, "__init__", note)
    mistyped, found = load_benchmark("command_start").MISTYPED, {}
    for command in COMMANDS:
        starts = [mistyped[SCRIPTS[command]] if command in SCRIPTS else ["runs/demo", "--nonsense"]]
        if command == "check":  # which is three
            starts += [["some/model", "--nonsense"], ["demo", "--nonsense"], ["--data", "a", "--nonsense"]]
        made.clear()
        for arguments in starts:
            with contextlib.suppress(UserError):
                dispatch([command, *arguments])
        found[command] = list(made)
    return found


def test_home_folder_in_every_option(parsers, home):
    """A new option that names a path cannot be forgotten: whatever is not a text is a path where it begins with `~`."""
    seen = set()
    for command, of_command in parsers.items():
        for parser in of_command:
            actions = [action for action in parser._actions if action.dest != "help"]
            required = [action.option_strings[:1] for action in actions if action.required]
            needed = [word for option in required for word in (*option, "~/needed")]
            for action in actions:
                words = [*action.option_strings[:1], "~/x"]
                try:
                    value = getattr(parser.parse_known_args([*needed, *words])[0], action.dest)
                except UserError:  # a number, or one of some names
                    continue
                values = value if isinstance(value, list) else [value]
                if action.dest in TEXTS or not isinstance(values[0], str):
                    continue
                assert str(home) in values[-1] and "~" not in values[-1], (command, action.dest, value)
                seen.add(f"{command} {action.dest}")
    assert seen > {
        *("train train_file", "train validation_file", "train data_cache_dir", "train output_dir"),
        *("train model_name_or_path", "train resume_from_checkpoint", "train deepspeed", "tokenizer output_dir"),
        *(
            "generate checkpoint",
            "generate output_file",
            "chat checkpoint",
            "chat output_file",
            "evaluate checkpoints",
            "evaluate leaderboard",
        ),
        *("serve checkpoint", "serve tokenizer_path", "check data", "check clean", "check output_file"),
        *("report run_folders", "report output_dir", "push checkpoint", "push output_file"),
    }


def test_home_folder_of_environment_and_recipe(home, monkeypatch):
    from tinystories.commands.serve import parse

    (home / "demo").mkdir()
    monkeypatch.setenv("CHECKPOINT_PATH", "~/demo")
    assert parse([])[0] == str(home / "demo")
    (home / "mine.yaml").write_text("train_file: ~/stories.txt\noutput_dir: ~/run\nuse_cpu: true\n", encoding="utf-8")
    recipe = read_recipe(["~/mine.yaml"])
    assert recipe.data.train_file == str(home / "stories.txt") and recipe.training.output_dir == str(home / "run")
    assert recipe.training.sample_prompts == ["Once upon a time"]


def test_text_stays_as_it_is():
    assert from_outside("prompt", "~/ is a wave") == "~/ is a wave"
    assert from_outside("sample_prompts", ["~", "Zoë 🦊"]) == ["~", "Zoë 🦊"]
    assert from_outside("stories", 5) == 5 and from_outside("train_file", None) is None


def test_text_of_another_locale():
    """Python in the C locale reads the bytes of UTF-8 one by one."""
    as_read = b"caf\xc3\xa9".decode("ascii", "surrogateescape")
    assert from_outside("prompt", as_read) == "café"


@pytest.mark.parametrize(
    ("key", "word", "message"),
    [
        ("prompt", "caf\udce9", "is not UTF-8; give it in UTF-8"),
        ("prompt", "half a fox \ud83e", "is not UTF-8"),
        ("train_file", "caf\udce9.txt", "is not UTF-8; rename it"),
        ("prompt", "a\0b", "contains a zero byte"),
        ("output_dir", "a\0b", "contains a zero byte"),
        ("output_dir", "~nobody-of-this-name/x", "there is no such home folder"),
    ],
)
def test_refused(key, word, message):
    """The line names the option, and can be shown on every terminal."""
    said = mistake(from_outside, key, word)
    assert said.startswith(f"{key} ") and message in said
    assert said.encode("utf-8") and "\0" not in said


def test_file_name_in_a_folder(tmp_path):
    """It would be written into reports."""
    from tinystories.data.readers import list_files

    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("One.", encoding="utf-8")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    assert "is not UTF-8; rename it" in mistake(list_files, tmp_path)
