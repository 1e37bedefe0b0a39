"""--output_file: a place that cannot be written to is a mistake before the work begins."""

import json

from helpers.runs import mistake
from tinystories.output_file import check_output_file, write_output_file


def test_no_place(tmp_path):
    assert mistake(check_output_file, str(tmp_path)) == f"output_file {tmp_path}: is a folder; name a file"
    assert "there is no folder" in mistake(check_output_file, str(tmp_path / "deep" / "out.json"))
    assert "cannot be written (" in mistake(write_output_file, str(tmp_path), {})


def test_written(tmp_path):
    path = tmp_path / "out.json"
    check_output_file(str(path))
    write_output_file(str(path), {"text": "Zoë"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "Zoë"}


def test_none_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output_file(None)
    write_output_file(None, {})
    assert not list(tmp_path.iterdir())
