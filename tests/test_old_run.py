"""A run folder of version 0.1.0, with another layout of the package, still opens, is checked and goes on.

tests/helpers/run_of_0_1_0.zip is a run of 12 steps on 60 sample stories, without its report: files that were written
then and cannot be written again; and stories.jsonl, the stories that this version's sample corpus no longer has.
Guards: a renamed class, key or file that old runs name.
"""

import contextlib
import json
import zipfile
from pathlib import Path

import pytest

from tinystories.atomic import damage
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.commands import check, generate, report, train
from tinystories.run_files import checkpoints, read_lines, step_of


pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parent / "helpers" / "run_of_0_1_0.zip"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The unpacked run folder, named `run` in the working folder; its recipe names the cache `cache` beside it, and its
    stories as if they had always been a file."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "run" / "recipe.json"
    of_a_file = {"num_sample_stories": None, "train_file": "stories.jsonl"}
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | of_a_file))
    return tmp_path / "run"


def test_opens_and_writes(run, capsys):
    assert [step_of(folder) for folder in checkpoints(run)] == [6, 12]
    for folder in (run, *checkpoints(run)):
        model, tokenizer = load_checkpoint(str(folder))
        assert (model.num_parameters(), len(tokenizer)) == (7408, 300)
    assert [damage(folder) for folder in checkpoints(run)] == [None, None]
    generate.main([str(run), "Once upon a time", "--seed", "1", "--max_new_tokens", "8", "--device", "cpu"])
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_check_and_report(run, tmp_path):
    with contextlib.suppress(SystemExit):  # the exit status of a model that is not fine
        check.main([str(run), "--device", "cpu", "--output_file", str(tmp_path / "checked.json")])
    checked = json.loads((tmp_path / "checked.json").read_text())
    assert checked["verdict"] == "undertrained"
    assert checked["own_text"], "it is read with the held-out stories of its run"
    report.main([str(run)])
    page = json.loads((run / "report" / "report.json").read_text())
    assert [row["step"] for row in page["evaluations"]] == [6, 12]


def test_resume(run):
    """Steps 13 to 16 follow with the optimizer, the random state and the data that the checkpoint names."""
    train.main(["run/recipe.json", "--output_dir", "run", "--resume", "--max_steps", "16"])
    results = json.loads((run / "all_results.json").read_text())
    assert results["resumed_from_step"] == 12
    state = json.loads((run / "trainer_state.json").read_text())
    assert state["global_step"] == 16
    losses = {row["step"]: row["loss"] for row in state["log_history"] if "loss" in row}
    assert list(losses) == [2, 4, 6, 8, 10, 12, 14, 16] and losses[16] < losses[12] < losses[2]
    assert [row["step"] for row in read_lines(run / "evaluations.jsonl")] == [6, 12, 16]
