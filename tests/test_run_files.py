"""The files of a run: absent, damaged and unreadable are told apart, and nothing of this machine is published."""

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.fake_hub import FakeHub, Repository
from helpers.run_folder import DATA, ENVIRONMENT, RECIPE, RESULTS, write_run
from helpers.runs import ROOT
from tinystories.errors import UserError
from tinystories.reporting.card_facts import read_facts
from tinystories.run_files import Run, RunFileError, checkpoints, read_json, read_lines, without_local_paths


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run")


def test_complete_run(folder):
    run = Run(folder)
    assert (run.recipe, run.data, run.results, run.environment) == (RECIPE, DATA, RESULTS, ENVIRONMENT)
    assert run.state["global_step"] == 100 and len(run.evaluations) == len(run.samples) == 2 and not run.stops
    assert (run.missing, run.problems) == ([], [])
    assert run.evaluation is None and run.missing == ["evaluation.json"]


def test_checkpoint_reads_the_run_above_it(folder):
    run = Run(folder / "checkpoint-50")
    assert run.state["global_step"] == 50 and run.recipe == RECIPE and run.results is None
    assert run.missing == ["all_results.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"global_step": 5', "is damaged (not JSON, or cut off)"),
        (b"\xff\xfe{}", "is damaged (not JSON, or cut off)"),
        (b"[1, 2]", "is damaged (not a JSON object)"),
        (b"null", "is damaged (not a JSON object)"),
        (b"{}", "is damaged (global_step is missing)"),
        (b'{"global_step": true}', "is damaged (global_step has the wrong type)"),
        (b'{"global_step": 1, "log_history": [7]}', "is damaged (log_history has the wrong type)"),
        (b'{"global_step": 1, "epoch": "two"}', "is damaged (epoch has the wrong type)"),
    ],
)
def test_damaged_file(folder, content, reason):
    (folder / "trainer_state.json").write_bytes(content)
    run = Run(folder)
    assert run.state is None and run.problems == [f"trainer_state.json {reason}"] and run.missing == []


@pytest.mark.parametrize("content", ['{"global_step": 1}', '{"global_step": 1, "epoch": 2, "max_steps": 3, "new": {}}'])
def test_optional_and_unknown_keys(folder, content):
    (folder / "trainer_state.json").write_text(content)
    assert Run(folder).state == json.loads(content)


@pytest.mark.parametrize("name", ["recipe.json", "samples.jsonl"])
def test_unreadable_file(folder, name):
    """A folder in place of the file: root, who may read everything, cannot read it either."""
    (folder / name).unlink()
    (folder / name).mkdir()
    run = Run(folder)
    assert not (run.recipe if name == "recipe.json" else run.samples)
    assert len(run.problems) == 1 and run.problems[0].startswith(f"{name} cannot be read (")
    assert str(folder) not in run.problems[0], "a problem may be published"
    read = read_json if name == "recipe.json" else read_lines
    with pytest.raises(UserError, match="cannot be read"):
        read(folder / name)


@pytest.fixture
def forbidden(folder, monkeypatch):
    """A run in a folder without permission: refused by replaced functions, since root may read everything."""

    def guarded(original):
        def refuse(path, *args, **options):
            if folder in (Path(path), *Path(path).parents):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *args, **options)

        return refuse

    for owner, name in ((Path, "stat"), (Path, "read_text"), (os, "listdir")):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))
    return folder


def test_folder_without_permission(forbidden):
    """It is unreadable, and not absent: an absent folder would be looked up on the Hub."""
    run = Run(forbidden)
    assert run.recipe is None and run.samples == run.stops == [] and run.missing == []
    reason = "cannot be read (permission denied)"
    assert run.problems == [f"{name} {reason}" for name in ("recipe.json", "samples.jsonl", "stopped_at_step_*.jsonl")]
    for read in (checkpoints, read_lines, read_json):
        with pytest.raises(RunFileError, match="permission denied"):
            read(forbidden)
    assert checkpoints(forbidden.parent / "absent") == []


def test_damaged_evaluation(folder):
    (folder / "evaluation.json").write_text('{"data": {"name": "stories", "stories": 3}, "settings": {}}')
    run = Run(folder)
    assert run.evaluation is None and run.problems == ["evaluation.json is damaged (settings has the wrong type)"]


def test_read_json(tmp_path):
    assert read_json(tmp_path / "absent.json") is None
    assert read_json(tmp_path / "a file.bin" / "absent.json") is None
    path, said = tmp_path / "file.json", []
    path.write_text("{")
    with pytest.raises(RunFileError, match="is damaged"):
        read_json(path)
    assert read_json(path, said.append) is None and said == [f"{path} is damaged (not JSON, or cut off)"]


def test_errors_can_be_pickled():
    """An error of the first process is sent to the others."""
    error = pickle.loads(pickle.dumps(RunFileError(Path("recipe.json"), "is damaged")))
    assert str(error) == "recipe.json is damaged" and error.reason == "is damaged"
    error = pickle.loads(pickle.dumps(UserError("wrong", "correct it")))
    assert str(error) == "wrong; correct it" and (error.message, error.remedy) == ("wrong", "correct it")


@pytest.mark.slow
@pytest.mark.hub
def test_hub_checkpoint(folder, tmp_path):
    """Absent on the Hub, damaged there and refused by it are told apart, too."""
    files = {name: (folder / name).read_bytes() for name in ("recipe.json", "evaluations.jsonl")}
    code = "import json; from tinystories.run_files import Run; run = Run('someone/model')\n"
    code += "read = [run.recipe, run.state, len(run.evaluations), run.results, run.environment]\n"
    code += "print(json.dumps(read + [run.missing, run.problems]))"
    with FakeHub() as hub:
        hub.repositories["someone/model"] = Repository(private=False)
        hub.repositories["someone/model"].commit("main", "first", files | {"trainer_state.json": b"{"})
        hub.fail("HEAD", ".*environment.json", status=400, times=10)
        environment = os.environ | hub.environment(tmp_path / "home")
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert process.returncode == 0, process.stderr
    recipe, state, evaluations, results, environment, missing, problems = json.loads(process.stdout)
    assert (recipe, state, evaluations, results, environment) == (RECIPE, None, 2, None, None)
    assert missing == ["all_results.json"]
    assert problems[0] == "trainer_state.json is damaged (not JSON, or cut off)"
    assert problems[1].startswith("environment.json cannot be read from the Hub (") and len(problems) == 2


def test_read_lines(tmp_path):
    """A line separator inside a text is no end of a line of the file."""
    path, said = tmp_path / "rows.jsonl", []
    good = json.dumps({"step": 1, "text": "one\u2028two"}, ensure_ascii=False)
    path.write_text(f'{good}\n\n{{"step": 2}}\n{{"step": 3, "te', encoding="utf-8")
    assert [row["step"] for row in read_lines(path, said.append)] == [1, 2]
    assert said == ["rows.jsonl: line 4 is damaged"]
    path.write_text(f'7\n{good}\n{{"no": "step"}}\n{{"step": "four"}}\n', encoding="utf-8")
    assert [row["step"] for row in read_lines(path, said.append)] == [1]
    assert said[1:] == ["rows.jsonl: 3 lines are damaged, the first is line 1"]
    assert read_lines(tmp_path / "absent.jsonl") == []


def test_evaluation_row_of_the_wrong_type(folder):
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 150, "eval_loss": "low"}\n')
    run = Run(folder)
    assert [row["step"] for row in run.evaluations] == [50, 100]
    assert run.problems == ["evaluations.jsonl: line 3 is damaged"]


def test_stops(folder):
    (folder / "stopped_at_step_37.jsonl").write_text('{"step": 37, "loss": null, "text": "x"}\n{"step": 37}\n')
    assert [row["step"] for row in Run(folder).stops] == [37]


def test_no_run(tmp_path, offline):
    """An empty folder, a file, and a name that is no Hub id: all is missing, and nothing is a problem."""
    (tmp_path / "model.bin").write_bytes(b"")
    for name in (tmp_path, tmp_path / "model.bin", "not/a/hub/id", "somebody/not-in-the-cache"):
        run = Run(name)
        assert (run.recipe, run.evaluations, run.problems) == (None, [], [])
        assert run.missing == ["recipe.json", "evaluations.jsonl"]


def test_card_facts(folder, caplog):
    facts = read_facts(folder)
    assert (facts.step, facts.best_step, facts.evaluated_stories) == (100, 100, 8)
    assert facts.final["bits_per_byte"] == 0.25 and len(facts.curve) == 2
    early = read_facts(folder / "checkpoint-50")
    assert (early.step, early.final, len(early.curve), len(early.samples)) == (50, None, 1, 1)
    assert early.last_evaluation["step"] == 50
    assert not caplog.text
    (folder / "data_report.json").write_text("{")
    assert read_facts(folder) is None and "data_report.json is damaged" in caplog.text


def test_checkpoints(folder):
    """By number, not by name; one without a seal is not complete."""
    for name in ("checkpoint-1000", "checkpoint-best", "checkpoint-60x"):
        (folder / name).mkdir()
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-50", "checkpoint-100"]
    assert [path.name for path in checkpoints(folder, complete=False)][-1] == "checkpoint-1000"


def test_local_paths_of_an_evaluation(tmp_path):
    """evaluation.json is published with its settings."""
    settings = {"data": "me/held-out.txt", "leaderboard": r"C:\me\board.jsonl", "tokenizer": "/home/me/tok512.bin"}
    record = {"data": {"name": "held-out.txt"}, "settings": settings | {"output_dir": str(tmp_path)}}
    cleaned = {"data": "held-out.txt", "leaderboard": "board.jsonl", "tokenizer": "tok512.bin"}
    assert without_local_paths(record)["settings"] == cleaned | {"output_dir": tmp_path.name}
    assert without_local_paths(record)["data"] == record["data"]


def test_without_local_paths():
    record = {"train_file": "/home/me/a.txt", "dataset_name": "some/name", "nested": [{"source": r"C:\me\b.csv"}]}
    record |= {"first_bad": "/home/me/a.txt:3", "model_name_or_path": "./runs/base", "tokenizer_name": "user/name"}
    assert without_local_paths(record) == {
        "train_file": "a.txt",
        "dataset_name": "some/name",
        "nested": [{"source": "b.csv"}],
        "model_name_or_path": "base",
        "tokenizer_name": "user/name",
    }


@pytest.mark.slow
def test_import_is_light():
    """A command that only reads the files of a run must not wait for torch."""
    code = "import sys, tinystories.run_files, tinystories.atomic, tinystories.random_state, tinystories.output_file\n"
    code += "print(sorted({'torch', 'transformers', 'safetensors', 'huggingface_hub'} & sys.modules.keys()))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "[]", process.stderr


def test_every_name_is_in_one_place():
    """No other module of the package writes the name of a record of a run as a string."""
    names = ('"recipe.json"', '"all_results.json"', '"train_results.json"', '"progress.json"', '"samples.jsonl"')
    names += ('"evaluations.jsonl"', '"data_report.json"', '"environment.json"', '"evaluation.json"')
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in Path(ROOT, "tinystories").rglob("*.py")
        if path.parent.name != "run_files"
        for name in names
        if name in path.read_text(encoding="utf-8")
    ]
    assert not found
