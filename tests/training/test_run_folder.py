"""Two runs never work in one folder, a mistake leaves no folder behind, and a run that trains nothing is no success."""

import shutil
from pathlib import Path

import pytest

from helpers.forked import ForkedCommand, fork_command
from helpers.kill_and_resume import options
from helpers.runs import as_options
from tinystories.lock import held
from tinystories.run_files import LOCK


TINY = {
    "num_sample_stories": 300,
    "vocab_size": 300,
    "block_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_steps": 2,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "skip_guards": True,
    "bf16": False,
    "disable_tqdm": True,
    "warmup_steps": 0,
}


@pytest.fixture
def train(tmp_path_factory):
    """run_clm.py on a tiny run in a folder."""
    cache = tmp_path_factory.getbasetemp() / "cache_of_run_folders"

    def train(folder: Path, *more: str, command: tuple[str, ...] = ("run_clm.py",), **settings):
        values = TINY | {"data_cache_dir": cache, "output_dir": folder} | settings
        return fork_command(*command, *as_options(values), *more)

    return train


def last_line(process) -> str:
    return process.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite_output_dir"]])
def test_folder_of_a_run_at_work(train, tmp_path, more):
    """The second command says who holds it, before any work, and changes nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    with held(folder / LOCK):
        before = sorted(folder.iterdir())
        process = train(folder, *more)
        assert process.returncode == 1 and sorted(folder.iterdir()) == before
        assert "another run is at work in it (process " in last_line(process) and "corpus" not in process.stderr
        checked = train(folder, *more, command=("check_run.py", "configs/demo.yaml"))
        assert checked.returncode == 1 and "another run is at work in it" in checked.stdout


@pytest.mark.slow
def test_two_at_once(tmp_path):
    """Started together with other settings: one of them has the folder, and all its files are of that one."""
    folder = tmp_path / "run"
    settings = {"max_steps": 20, "eval_steps": 10, "num_sample_stories": 300}
    both = [
        ForkedCommand("run_clm.py", *options(folder, **settings, hidden_size=width, seed=width)) for width in (32, 64)
    ]
    ended = [process.wait() for process in both]
    assert sorted(process.returncode for process in ended) == [0, 1]
    winner = next(width for width, process in zip((32, 64), ended, strict=True) if not process.returncode)
    assert f'"hidden_size": {winner},' in (folder / "config.json").read_text()
    assert f'"hidden_size": {winner},' in (folder / "recipe.json").read_text()
    assert not list(folder.glob(f"{LOCK}*"))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_sample_stories": 1},  # too few to hold any out
        {"hidden_size": 30, "num_attention_heads": 7},
        {"vocab_size": 3},
        {"tokenizer_name": "/nowhere/tokenizer"},
        {"report_to": "no_such_tracker"},
    ],
)
def test_mistake_leaves_nothing(train, tmp_path, settings):
    process = train(tmp_path / "runs" / "deep" / "run", **settings)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


def test_mistake_leaves_an_empty_folder_of_the_user(train, tmp_path):
    (tmp_path / "mine").mkdir()
    assert train(tmp_path / "mine", vocab_size=3).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and not list((tmp_path / "mine").iterdir())


# Nothing trained


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 4096}, "dataloader_drop_last leaves no batch"),
        ({"num_train_epochs": 0, "max_steps": -1}, "num_train_epochs"),
        ({"max_steps": 1, "warmup_steps": 1}, "the weights did not change in 1 step:"),
        ({"learning_rate": 0}, "nothing"),
        ({"learning_rate": 1e-38}, "the weights did not change in 2 steps"),
    ],
)
def test_nothing_trained(train, tmp_path, settings, words):
    folder = tmp_path / "run"
    process = train(folder, **settings)
    assert process.returncode == 1 and words in last_line(process)
    assert not (folder / "README.md").exists() and not (folder / "all_results.json").exists()


def test_a_batch_that_just_fits(train, tmp_path):
    """With as many rows as a batch holds, dropping the last, smaller one leaves a batch; with one row fewer, none."""
    first = train(tmp_path / "first", dataloader_drop_last=True, per_device_train_batch_size=1)
    rows = int(first.stderr.split(" rows of 64")[0].split()[-1].replace(",", ""))
    for size, status in ((rows, 0), (rows + 1, 1)):
        folder = tmp_path / "run"
        assert train(folder, dataloader_drop_last=True, per_device_train_batch_size=size).returncode == status
        shutil.rmtree(folder, ignore_errors=True)


def test_first_step_counts(train, tmp_path):
    assert train(tmp_path / "run", max_steps=1).returncode == 0
