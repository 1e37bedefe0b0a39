"""What the line of a session completes, and the lines that it keeps for later sessions."""

import asyncio
import os
import stat

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tinystories.terminal.history import LARGEST, history_file, open_history
from tinystories.terminal.prompt import CommandCompleter


def completed(text):
    """Each completion with the text that it completes."""
    found = CommandCompleter().get_completions(Document(text), CompleteEvent(completion_requested=True))
    return [text[: len(text) + completion.start_position] + completion.text for completion in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ag", ["again"]),
        ("/se", ["/set", "/seed", "/settings"]),
        ("set t", ["set temperature", "set top_k", "set top_p"]),
        ("set preset n", ["set preset natural"]),
        ("preset c", ["preset conservative", "preset creative"]),
        ("seed ", ["seed random"]),
        ("Ag", []),
        (" ag", []),
        ("set temperature t", []),
        ("Once upon a time there was a s", []),
        ("again n", []),
    ],
)
def test_completion(text, expected):
    """Nothing is completed in a story."""
    assert completed(text) == expected


def test_file_is_completed(tmp_path):
    (tmp_path / "stories.txt").touch()
    assert completed(f"save {tmp_path}/sto") == [f"save {tmp_path}/stories.txt"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert tmp_path in history_file().parents
    return history_file()


def lines(history):
    """Newest first, as the arrow up shows them."""

    async def load():
        return [line async for line in history.load()]

    return asyncio.run(load())


def test_lines_are_kept(file):
    for line in ("Zo\u00eb \U0001f98a", "two\nlines", "Z\udcff"):
        history, reason = open_history(True)
        assert reason is None
        history.append_string(line)
    assert lines(open_history(True)[0]) == ["Z?", "two\nlines", "Zo\u00eb \U0001f98a"]
    assert os.name != "posix" or stat.S_IMODE(file.stat().st_mode) == 0o600
    history, reason = open_history(False)
    history.append_string("secret")
    assert reason is None and lines(open_history(False)[0]) == [] and "secret" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1, 3 * LARGEST])
def test_history_stays_small(size, file):
    """Below the limit it is as it was; above it the newer half is left, whole lines, and only its user may read it."""
    file.parent.mkdir(parents=True)
    entry = b"\n# 2026-11-26 10:00:00.000000\n+" + b"o" * 1000 + b"\n"
    newest = b"\n# 2026-11-26 10:00:00.000000\n+newest\n"
    older = (entry * (size // len(entry) + 1))[: size - len(newest)]
    file.write_bytes(older + newest)
    found = lines(open_history(True)[0])
    assert found[0] == "newest" and set(found[2:]) == {"o" * 1000}  # the second is cut at its end, here
    assert file.stat().st_size == size if size <= LARGEST else file.stat().st_size <= LARGEST // 2
    if size > LARGEST and os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_history_cannot_be_kept(file):
    """The session goes on without, and says why."""
    file.mkdir(parents=True)
    history, reason = open_history(True)
    history.append_string("a line")
    assert reason and lines(history) == ["a line"]


def test_damaged_history(file):
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xff\xfe\0nonsense\n+" + b"\n# x\n+kept\n")
    assert lines(open_history(True)[0])[0] == "kept"
