"""A session as a person has it: keys in, a screen out, Ctrl-C and Ctrl-D, and the history of earlier sessions."""

import json
import os
import stat

import pytest

from helpers.export_sources import small_tokenizer
from helpers.terminal import Terminal
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.writer import open_writer
from tinystories.config.packaged import BOXED
from tinystories.generation.presets import PRESETS
from tinystories.generation.sampler import GREEDY, Settings
from tinystories.generation.written import Story


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="Windows has no pseudo terminals for Python to open"),
]
CHAT = ("-m", "tinystories", "chat")


@pytest.fixture
def state(tmp_path):
    """Where the history is kept."""
    return {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


def kept(tmp_path):
    """The history of lines, on Linux and on macOS."""
    folders = (tmp_path / "state", tmp_path / "Library/Application Support")
    return next(path for folder in folders if (path := folder / "tinystories" / "history").exists())


def test_session(tmp_path, state):
    with Terminal(*CHAT, "--max_new_tokens", "12", "--seed", "1", **state) as terminal:
        assert f"boxed: {open_writer(str(BOXED)).parameters:,} parameters" in terminal.prompt()
        assert "continue" in terminal.answer("help")
        story = terminal.answer("Once upon a time")
        assert "\nOnce upon a time, there was" in story and "seed 1; cut at the limit: continue goes on]" in story
        assert "did you mean temperature?" in terminal.answer("set temprature 0.9")
        terminal.press("set tem\t")
        terminal.until(lambda output: b"perature" in output)  # completed
        assert "temperature 0.9, before 0.8" in terminal.answer(" 0.9")
        terminal.press("half a line\x03")
        assert "interrupted" not in terminal.prompt()
        assert "is not UTF-8; " in terminal.answer(b"caf\xff")
        assert "error: the prompt has" in terminal.answer("word " * 600)
        assert f"saved 1 story in {tmp_path}" in terminal.answer(f"save {tmp_path}/a.txt").replace("\n", " ")
        terminal.press("quit\r")
        assert terminal.end()[0] == 0
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").startswith("Once upon a time, there was")
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600
    with Terminal(*CHAT, "--max_new_tokens", "3", **state) as terminal:
        terminal.prompt()
        assert "there is no story yet" in terminal.answer("\x1b[A\x1b[A")  # two lines up, before quit: save
        terminal.press("\x04")
        assert terminal.end()[0] == 0


def test_ctrl_c_stops_the_story(tmp_path, state):
    """What was written stays, and continue goes on as if it had not been stopped. The story would last for seconds:
    the network is untrained, and its likeliest tokens never end one.
    """
    folder = save(untrained_model(small_tokenizer(), context=30000), small_tokenizer(), tmp_path / "model")
    options = ("--temperature", "0", "--max_new_tokens", "30000", "--no_history")
    with Terminal(*CHAT, folder, *options, **state) as terminal:
        terminal.prompt()
        terminal.press("Once\r")
        for _ in range(2):
            terminal.until(lambda output: len(output) > 2000)
            terminal.press("typed")  # it waits for the next prompt, and is not shown within the story
            terminal.until(lambda output: len(output) > 200)
            terminal.press("\x03")
            story, _, rest = terminal.prompt().partition("; stopped: continue goes on]")
            assert rest and "typed" not in story and "^C" not in story
            terminal.press("\x15continue\r")  # Ctrl-U takes it away
        terminal.until(lambda output: len(output) > 2000)
        terminal.press("\x03")
        terminal.prompt()
        terminal.answer(f"save {tmp_path}/stories.jsonl")
        terminal.press("\x04")
        assert terminal.end()[0] == 0
    record = json.loads((tmp_path / "stories.jsonl").read_text(encoding="utf-8"))
    whole = Story(open_writer(str(folder), "cpu"), "", "Once", GREEDY, 0)
    whole.write(record["new_tokens"], lambda text: None)
    assert record["finish_reason"] == "stopped" and record["text"] == whole.text
    assert not (tmp_path / "state").exists()


def test_terminal_without_control_codes(state):
    """It would show them as characters."""
    with Terminal(*CHAT, "--max_new_tokens", "3", "--seed", "1", **state, TERM="dumb") as terminal:
        for line, answer in (
            ("Once upon a time", b"seed 1; "),
            (b"caf\xff", b"is not UTF-8"),
            ("set x", b"no setting"),
        ):
            terminal.press(line)
            terminal.press("\n")
            terminal.until(lambda output, answer=answer: answer in output)
        terminal.press("\x04")
        assert terminal.end()[0] == 0 and b"\x1b" not in terminal.output


def test_prompt_on_the_command_line(state):
    """In a terminal lines end between words; no session begins."""
    words = ("Once upon a time", "--seed", "1", "--max_new_tokens", "60")
    with Terminal("-m", "tinystories", "generate", *words, columns=30, **state) as terminal:
        status, output = terminal.end()
    story = output[: output.index("[60 new tokens")]
    assert status == 0 and max(map(len, story.splitlines())) <= 30 and len(story.splitlines()) > 6
    wanted = Story(open_writer(str(BOXED)), "", words[0], Settings(**PRESETS["natural"]), 1)
    wanted.write(60, lambda text: None)
    assert story.split() == wanted.text.split()
