"""The quick routes of tests/helpers/compatibility.py work, and docs/compatibility.md is its whole table."""

import json
import subprocess
import sys

import pytest
import transformers

from helpers import compatibility
from helpers.runs import ROOT


NOT_HERE = {  # what may be left out, and why
    '`attn_implementation="flash_attention_2"`': "needs a GPU",
    "offloaded cache": "needs a GPU",
    "contrastive search, DoLa, group beam search": "moved them to repositories on the Hub",
    "TRL: `SFTTrainer` with a model object": "needs the package trl",
    "TRL: `DPOTrainer` with a model object, its reference and LoRA": "needs the package trl",
}
CLOSED = {'`pipeline("text-generation")` with messages', "peft: LoRA without `target_modules`"}  # by other libraries


@pytest.mark.slow
def test_quick_routes(counting_run, tmp_path):
    """In a process of their own, where the code of the checkpoint runs and nothing of this project is imported."""
    script = ROOT / "tests/helpers/compatibility.py"
    command = [sys.executable, script, counting_run, "--quick", "--json", tmp_path / "rows.json"]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) > 25
    assert {row["route"] for row in rows if row["works"] == "no"} == CLOSED
    for row in rows:
        assert row["works"] in ("yes", "no") or NOT_HERE.get(row["route"], "no reason") in row["found"], row


@pytest.mark.slow
def test_failure_is_reported(counting_run, tmp_path, capsys):
    """The table can say no: a checkpoint whose end-of-story token is not that of its tokenizer."""
    for file in counting_run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 0}))
    verbosity = transformers.logging.get_verbosity()
    try:
        assert compatibility.main([str(tmp_path), "--quick", "--only", "AutoConfig"]) == 1
    finally:
        transformers.logging.set_verbosity(verbosity)
    assert capsys.readouterr().out.startswith("NO        `AutoConfig`, `AutoTokenizer`")


def test_table_in_the_documents():
    """It is written from its record, holds every route, and none that fails."""
    record = json.loads((ROOT / "docs/results/compatibility.json").read_text(encoding="utf-8"))
    assert compatibility.as_markdown(record) == (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    table = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ") and "route |" not in line]
    assert [row[0].removeprefix("| ") for row in rows] == [route.name for route in compatibility.ROUTES]
    assert {row[1] for row in rows} == {"yes", "no", "not tried"}
