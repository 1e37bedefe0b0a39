"""The quick routes of tests/helpers/compatibility.py are walked, and docs/compatibility.md is its table, whole."""

import json
import subprocess
import sys

import compatibility

from helpers.runs import ROOT


NOT_HERE = {  # what may be left out, and why
    '`attn_implementation="flash_attention_2"`': "needs a GPU",
    "offloaded cache": "needs a GPU",
    "contrastive search, DoLa, group beam search": "moved them to repositories on the Hub",
}


def test_every_quick_route_works(counting_run, tmp_path):
    script = [
        sys.executable,
        ROOT / "tests/helpers/compatibility.py",
        counting_run,
        "--quick",
        "--json",
        tmp_path / "rows.json",
    ]
    process = subprocess.run(script, capture_output=True, text=True, encoding="utf-8", timeout=300, cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) > 25
    for row in rows:
        assert row["works"] == "yes" or NOT_HERE.get(row["route"], "no reason") in row["found"], row


def test_a_checkpoint_that_is_broken_fails_and_is_named(counting_run, tmp_path):
    """The table can say no: a checkpoint whose tokens are not those of its config."""
    for file in counting_run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 0}))
    script = [sys.executable, ROOT / "tests/helpers/compatibility.py", tmp_path, "--quick", "--only", "AutoConfig"]
    process = subprocess.run(script, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert process.returncode == 1
    assert process.stdout.startswith("NO        `AutoConfig`, `AutoTokenizer`")


def test_the_table_in_the_documents_holds_every_route_and_no_failure():
    table = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ") and "route |" not in line]
    assert [row[0].removeprefix("| ") for row in rows] == [route.name for route in compatibility.ROUTES]
    assert {row[1] for row in rows} == {"yes", "not tried"}
