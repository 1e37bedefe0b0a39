"""Which files a folder stands for: links are followed, nothing is read twice, and what is left out is named."""

import logging
import os
import socket
import sys

import pytest

from helpers.runs import mistake
from tinystories.config.keys import DataArguments
from tinystories.data.corpus import load_corpus, read_files
from tinystories.data.readers import list_files
from tinystories.training.guards.sources import check_sources, read_again


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


@pytest.fixture
def folder(tmp_path):
    """A folder of stories with one file, beside another one."""
    for name, text in (("in/a.txt", "One."), ("other/b.txt", "Two."), ("other/sub/c.txt", "Three.")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / "in"


def read(folder, caplog) -> tuple[list[str], str]:
    """The stories of a folder, as both readers find them, and what is said of the files."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        stories, _ = read_files(str(folder), DataArguments(data_cache_dir=str(folder.parent / "cache")))
    assert list(stories["text"]) == list(read_again(str(folder), DataArguments()))
    return list(stories["text"]), caplog.text


def test_links_are_followed(folder, caplog):
    """To folders and to files, out of the folder too, in the order of the paths."""
    (folder / "more").symlink_to("../other")
    (folder / "b.txt").symlink_to("../other/sub/c.txt")
    stories, said = read(folder, caplog)
    assert stories == ["One.", "Three.", "Two."]
    assert "followed 2 links: b.txt -> " in said and "more -> " in said
    assert "left out 1 (read already" in said and "more/sub/c.txt" in said
    (folder.parent / "linked").symlink_to("in")
    assert read(folder.parent / "linked", caplog)[0] == stories


LOOPS = {"itself": "loop", "its folder": ".", "the folder around": "..", "the top": "/", "two links": "again"}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_end(folder, caplog, name):
    """They are named, and nothing around the folder is read."""
    (folder / "loop").symlink_to(LOOPS[name])
    if name == "two links":
        (folder / "again").symlink_to("loop")
    stories, said = read(folder, caplog)
    assert stories == ["One."]
    assert "loop" in said and "left out" in said


def test_loop_outside(folder, caplog):
    (folder / "more").symlink_to("../other")
    (folder.parent / "other" / "back").symlink_to("../in")
    (folder.parent / "other" / "sub" / "up").symlink_to("..")
    assert read(folder, caplog)[0] == ["One.", "Two.", "Three."]


def test_one_file_by_two_names(folder, caplog):
    """It is read once; a name of another format does not count as one."""
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "a.md").symlink_to("a.txt")
    stories, said = read(folder, caplog)
    assert stories == ["One."]
    assert "left out 1 (another format): a.md" in said and "left out 1 (read already" in said


def test_hidden(folder, caplog):
    """Hidden files and folders are left out and said, not those that a link leads to."""
    for name in (".git/d.txt", ".ipynb_checkpoints/a.txt", ".DS_Store", ".e.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("Hidden.", encoding="utf-8")
    stories, said = read(folder, caplog)
    assert stories == ["One."]
    assert "left out 4 (hidden): .DS_Store, .e.txt, .git, .ipynb_checkpoints" in said
    (folder / "shown").symlink_to(".git")
    assert read(folder, caplog)[0] == ["One.", "Hidden."]


def test_other_things(folder, caplog, monkeypatch):
    """A dangling link, a pipe and a socket are named; none is opened, and no run waits for them."""
    (folder / "gone.txt").symlink_to("nothing.txt")
    os.mkfifo(folder / "pipe.txt")
    (folder / "b.txt.gz").write_bytes(b"\x1f\x8b")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)  # the path of a socket is short
        listening.bind("s.txt")
        stories, said = read(folder, caplog)
    assert stories == ["One."]
    assert "left out 1 (a link to nothing that can be read): gone.txt" in said
    assert "left out 2 (neither file nor folder): pipe.txt, s.txt" in said
    assert "left out 1 (another format): b.txt.gz" in said
    assert "neither a file nor a folder" in mistake(list_files, folder / "pipe.txt")
    assert "link to nothing.txt" in mistake(list_files, folder / "gone.txt")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_no_permission(folder, caplog):
    (folder / "closed").mkdir()
    (folder / "b.txt").write_text("Two.", encoding="utf-8")
    for name in ("closed", "b.txt"):
        (folder / name).chmod(0)
    try:
        stories, said = read(folder, caplog)
    finally:
        (folder / "closed").chmod(0o700)
    assert stories == ["One."]
    assert "left out 2 (no permission to read): b.txt, closed" in said


def test_nothing_to_read(folder):
    """The message says what there is instead."""
    (folder / "a.txt").rename(folder / "a.TXT.zst")
    message = mistake(list_files, folder)
    assert "contains no .txt" in message and "1 (another format): a.TXT.zst" in message
    (folder / "rows.json").write_text("[]", encoding="utf-8")
    assert "named .jsonl" in mistake(list_files, folder / "rows.json")


def test_left_out_is_counted(folder):
    (folder / "more").symlink_to("../other")
    (folder / "notes.md").write_text("No story.", encoding="utf-8")
    data = DataArguments(train_file=str(folder), data_cache_dir=str(folder.parent / "cache"))
    corpus = load_corpus(data)
    assert corpus.report["train"]["left_out"] == 1
    check_sources(corpus, data)
