"""Prompts from stdin: a story for each line, the same as one command for each line; a bad line ends nothing."""

import io
import json
import subprocess
import sys
import tracemalloc

import pytest

from helpers.runs import ROOT, mistake
from tinystories.commands import chat, generate
from tinystories.terminal.standard_input import LONGEST, Prompts


SHORT = ["--seed", "3", "--max_new_tokens", "5"]


@pytest.fixture
def stdin(monkeypatch):
    def give(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def alone(line, tmp_path):
    output = tmp_path / "alone.json"
    generate.main(["boxed", line, *SHORT, "--output_file", str(output)])
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [generate, chat])
def test_story_for_each_line(command, stdin, tmp_path, capsys):
    """With a BOM, line ends of Windows, empty lines, and no end of the last one."""
    lines = ["Once upon a time", " A fox", "One\tday ", "Zo\u00eb \U0001f98a", "Once upon a time"]
    stdin("\ufeff{}\r\n\n  \r\n{}\n{}\n{}\n{}".format(*lines).encode())
    command.main([*SHORT, "--output_file", str(tmp_path / "all.jsonl")])
    captured = capsys.readouterr()
    wanted = [alone(line, tmp_path) for line in lines]
    written = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record | {"seconds": 0} for record in written] == [record | {"seconds": 0} for record in wanted]
    assert captured.out == "".join(record["text"] + "\n\n" for record in wanted)
    assert captured.err.startswith("[5 stories, 25 new tokens in ") and "empty lines skipped: 2]" in captured.err


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_pipe_into_a_terminal(stdin, monkeypatch, tmp_path):
    """Its lines end between words, as those of a story whose prompt is on the command line."""
    screen = Screen()
    stdin(b"Once upon a time\nOne day\n")
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "30")
    generate.main(["--seed", "3", "--max_new_tokens", "60", "--output_file", str(tmp_path / "a.jsonl")])
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert screen.getvalue().split() == " ".join(texts).split()
    assert max(map(len, screen.getvalue().splitlines())) <= 30 and screen.getvalue().endswith("\n\n")


def test_bad_lines(stdin, capsys):
    """Each is named by its number; the others have their stories, and the command fails at its end."""
    bad = b"caf\xff", b"a\x1b[2J", b"a\0b", b"word " * 600
    stdin(b"\n".join([b"One", *bad, b"Two"]))
    message = mistake(generate.main, SHORT)
    captured = capsys.readouterr()
    assert message == "4 of 6 lines have no story; the messages above say why"
    assert [line.split(":")[1] for line in captured.err.splitlines() if line.startswith("error: ")] == [
        *(" line 2", " line 3", " line 4", " line 5")
    ]
    assert "not UTF-8 (byte 0xff at column 4)" in captured.err and "the context is 512" in captured.err
    assert captured.out.startswith("One") and "\n\nTwo" in captured.out and "\x1b" not in captured.err


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_nothing_on_stdin(content, stdin, capsys):
    """As from the null device or a closed stdin, and before a model is opened."""
    stdin(content)
    assert mistake(generate.main, ["somebody/none"]).startswith("no prompt: nothing is on stdin; ")
    assert capsys.readouterr().out == ""


def test_only_bad_lines(stdin, capsys):
    """UTF-16, as PowerShell 5 writes files."""
    stdin("Once\nupon".encode("utf-16"))
    assert mistake(generate.main, ["boxed"]).startswith("2 of 2 lines have no story")
    assert "error: line 1: the text is not UTF-8 (byte 0xff at column 1)" in capsys.readouterr().err


def test_output_file_is_lines(stdin, tmp_path):
    """An object for each story is no JSON file; a single prompt in such a file is one line."""
    stdin(b"One\n")
    file = tmp_path / "stories.json"
    assert "must end in .jsonl" in mistake(generate.main, ["--output_file", str(file)]) and not file.exists()
    generate.main(["boxed", "One", *SHORT, "--output_file", f"{file}l"])
    assert (tmp_path / "stories.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize(("size", "failed"), [(LONGEST - 1, 0), (LONGEST, 1), (3 * LONGEST, 1)])
def test_longest_line(size, failed, capsys):
    """Without its line end it has one byte less than is read at once; the line after it is found."""
    prompts = Prompts(io.BytesIO(b"a" * size + b"\nnext\n"))
    assert [number for number, _ in prompts] == [1, 2][failed:]
    assert (prompts.failed, prompts.lines) == (failed, 2)


class Endless(io.RawIOBase):
    """64 MiB without a line end."""

    left = 2**26

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        buffer[:size] = b"a" * size
        self.left -= size
        return size


def test_memory_of_one_line(capsys):
    tracemalloc.start()
    try:
        assert list(Prompts(io.BufferedReader(Endless()))) == []
        assert tracemalloc.get_traced_memory()[1] < 8 * LONGEST
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_each_story_as_soon_as_its_line(tmp_path):
    """A real pipe that stays open: what waits for the end of stdin, or holds its output back, never answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tinystories", "generate", *SHORT],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for line in (b"Once upon a time\n", b"A fox\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline().startswith(line.strip()) and process.stdout.readline().strip() == b""
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, b"") and errors.startswith(b"[2 stories, 10 new tokens")
    assert errors.count(b"\n") == 1
