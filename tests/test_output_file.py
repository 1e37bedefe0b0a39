"""What commands write: a place that cannot be written to is a mistake before the work, and nothing is half written."""

import json
import os
import stat
import sys

import pytest

from helpers.runs import mistake
from tinystories.commands import evaluate, report, tokenizer
from tinystories.output_file import check_output_file, check_output_folder, write_output_file, written_together


TOO_LONG = "a" * 260
posix = pytest.mark.skipif(os.name != "posix", reason="makes links")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses new files, even to root")


def test_no_place_for_a_file(tmp_path):
    assert mistake(check_output_file, str(tmp_path)) == f"output_file {tmp_path}: is a folder; name a file"
    assert "there is no folder" in mistake(check_output_file, str(tmp_path / "deep" / "out.json"))
    assert "cannot be written (" in mistake(write_output_file, str(tmp_path), {})
    (tmp_path / "file").touch()
    assert "there is no folder" in mistake(check_output_file, str(tmp_path / "file" / "out.json"))
    for name in (TOO_LONG, "a" * 250):  # the second file, which is written first, has a longer name
        assert "may not be written" in mistake(check_output_file, str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_place_for_a_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "deep" / "deeper"):
        assert f"{file} is not a folder" in mistake(check_output_folder, place)
    assert "cannot be made" in mistake(check_output_folder, tmp_path / "new" / TOO_LONG)
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing of the attempt is left"
    check_output_folder(tmp_path / "new" / "newer")
    check_output_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@posix
def test_links(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere" / "file")
    assert "there is no folder" in mistake(check_output_file, str(link))
    assert "is not a folder" in mistake(check_output_folder, link)
    link.unlink()
    link.symlink_to(link)
    assert "may not be written" in mistake(check_output_file, str(link))
    link.unlink()
    link.symlink_to(tmp_path / "target")
    check_output_file(str(link))
    assert link.is_symlink() and not (tmp_path / "target").exists()
    write_output_file(str(link), {})
    assert link.is_symlink() and (tmp_path / "target").read_text(encoding="utf-8") == "{}\n"


@linux
def test_place_that_refuses():
    assert "may not be written (" in mistake(check_output_file, "/proc/new.json")
    assert "cannot be made" in mistake(check_output_folder, "/proc/new/folder")
    check_output_file("/dev/null")


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (tokenizer.main, ["--num_sample_stories", "5", "--output_dir"]),
        (evaluate.main, ["some/model", "--output_dir"]),
        (evaluate.main, ["some/model", "--leaderboard"]),
        (report.main, ["tests", "--output_dir"]),
    ],
)
def test_every_command_checks_first(main, words, tmp_path):
    """Before the work, of which each of these would fail in another way."""
    (tmp_path / "file").touch()
    option = words[-1].removeprefix("--")
    assert mistake(main, [*words, str(tmp_path / "file" / "x")]).startswith(f"{option} {tmp_path / 'file'}")


def test_leaderboard_is_not_its_table(tmp_path):
    assert "name a .jsonl file" in mistake(evaluate.parse, ["some/model", "--leaderboard", str(tmp_path / "a.md")])


def test_written(tmp_path):
    path = tmp_path / "out.json"
    check_output_file(str(path))
    assert not path.exists()
    write_output_file(str(path), {"text": "Zoë"})
    check_output_file(str(path))
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "Zoë"}


def test_none_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output_file(None)
    write_output_file(None, {})
    assert not list(tmp_path.iterdir())


def test_files_that_belong_together(tmp_path):
    """An earlier result stays as it was when the next one cannot be written."""
    folder = tmp_path / "tokenizer"
    with written_together(folder) as unfinished:
        (unfinished / "a").write_text("1", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), written_together(folder) as unfinished:
        (unfinished / "a").write_text("2", encoding="utf-8")
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_text(encoding="utf-8") == "1"


@posix
@pytest.mark.slow
def test_modes_are_those_of_the_umask(counting_run):
    """safetensors writes for the owner only, and `mkdtemp` makes folders that nobody else may enter."""
    (counting_run.parent / "made").mkdir()
    (counting_run.parent / "file").touch()
    folder, file = (stat.S_IMODE((counting_run.parent / name).stat().st_mode) for name in ("made", "file"))
    for path in counting_run.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path
