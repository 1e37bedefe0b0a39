"""Files are complete or absent: a sealed folder shows every change, and a failed write leaves the old file."""

import errno
import json
import os

import pytest
from safetensors import SafetensorError

from tinystories.atomic import damage, discard, is_no_room, is_sealed, seal, write_atomically


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "b.txt").write_text("two")
    (folder / "card.md").write_text("may change")
    seal(folder, belongs=lambda file: file.suffix == ".txt")
    return folder


def test_sealed_folder(folder):
    (folder / "card.md").write_text("changed")
    assert is_sealed(folder) and damage(folder) is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folder: (folder / "a.txt").unlink(), "a.txt is missing"),
        (lambda folder: (folder / "deep" / "b.txt").write_text("tw"), "deep/b.txt has 2 bytes of 3"),
        (lambda folder: (folder / "a.txt").write_text("eno"), "a.txt is not what was written"),
        (lambda folder: (folder / "sealed.json").write_text("{"), "sealed.json is damaged"),
        (lambda folder: (folder / "sealed.json").write_text("[]"), "sealed.json is damaged"),
        (lambda folder: (folder / "sealed.json").write_text('{"a.txt": 3}'), "sealed.json is damaged"),
        (lambda folder: (folder / "sealed.json").write_text("{}"), "sealed.json names no file"),
    ],
)
def test_damage(folder, change, found):
    change(folder)
    assert damage(folder) == found


def test_unreadable_seal(folder):
    """A missing permission must not read like a file that is gone; a folder is unreadable to root too."""
    (folder / "sealed.json").unlink()
    (folder / "sealed.json").mkdir()
    assert damage(folder) == f"sealed.json cannot be read ({os.strerror(errno.EISDIR)})"


def test_every_damaged_bit_of_the_seal(folder):
    """Each is found, except where the JSON says the same as before, and none is a traceback."""
    path = folder / "sealed.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        if damage(folder) is None:
            assert json.loads(changed) == json.loads(whole)


def test_write_atomically(tmp_path):
    path = tmp_path / "file.json"
    write_atomically(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_bytes() == b"old\n"
    write_atomically(path, "new\n")
    assert path.read_bytes() == b"new\n" and os.listdir(tmp_path) == ["file.json"]


def test_discard(folder):
    discard(folder)
    assert not folder.exists()


def test_no_room():
    assert is_no_room(OSError(errno.ENOSPC, "")) and not is_no_room(OSError(errno.EACCES, ""))
    assert is_no_room(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert is_no_room(RuntimeError("[enforce fail at inline_container.cc:664]")) and not is_no_room(RuntimeError("x"))
