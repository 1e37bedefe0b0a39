"""An average of the weights: what a checkpoint holds, and that a resumed run continues from the trained ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.forked import fork_command
from helpers.kill_and_resume import differing, options
from helpers.mutations import assert_stopped
from tinystories.training.averaging import TRAINED, WeightAverage, decay_of_step


STEPS = 8
SETTINGS = {"ema_decay": 0.5, "num_sample_stories": 20, "max_steps": STEPS, "warmup_steps": 0, "eval_steps": 1}
SETTINGS |= {"save_steps": 1, "save_total_limit": 100, "dataloader_num_workers": 0}


def small_run(folder: Path, *more: str, **settings):
    process = fork_command("run_clm.py", *options(folder, **SETTINGS, **settings), *more)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("average") / "run")


def test_decay():
    """A fresh model does not stay in the average; later the recipe's share does."""
    assert [decay_of_step(step, 0.5) for step in (1, 9, 10, 10**6)] == [0.1, 0.5, 0.5, 0.5]


def test_exchange():
    """Back and forth is what it was, to the bit, and the weights stay where compiled code knows them."""
    model = torch.nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    before = [weight.detach().clone() for weight in model.parameters()]
    places = [weight.data_ptr() for weight in model.parameters()]
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1.0
    average.update(1)
    with average.exchanged():
        for weight, old in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(weight.detach(), old + 0.9)
    for weight, old, place in zip(model.parameters(), before, places, strict=True):
        assert torch.equal(weight, old + 1.0) and weight.data_ptr() == place


@pytest.mark.slow
def test_checkpoints(run):
    """Each holds the average of the steps so far, and the trained weights beside it."""
    averages, trained = (
        [load_file(run / f"checkpoint-{step}" / name) for step in range(1, STEPS + 1)]
        for name in ("model.safetensors", TRAINED)
    )
    for step in range(2, STEPS + 1):
        stays = min(0.5, step / (step + 9))
        for name, found in averages[step - 1].items():
            wanted = stays * averages[step - 2][name].double() + (1 - stays) * trained[step - 1][name].double()
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)
            assert not torch.equal(found, trained[step - 1][name])
    best = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["best_global_step"]
    final = load_file(run / "model.safetensors")
    assert final.keys() == averages[0].keys() == trained[0].keys()
    assert all(torch.equal(final[name], averages[best - 1][name]) for name in final)
    assert not (run / TRAINED).exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [5])
def test_resume(run, step, tmp_path):
    resumed = shutil.copytree(run, tmp_path / "run")
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(resumed / f"checkpoint-{later}")
    small_run(resumed, "--resume", "--skip_guards", data_cache_dir=run.parent / "cache")
    assert differing(resumed, run) == []
    for name in ("model.safetensors", TRAINED):
        one, other = (load_file(folder / f"checkpoint-{STEPS}" / name) for folder in (run, resumed))
        assert all(torch.equal(one[key], other[key]) for key in one)


MUTATIONS = {
    "the trained weights scored": (
        "averaging.py",
        "        with self.other_weights():\n            return super()._evaluate",
        "        if True:\n            return super()._evaluate",
        "that were scored at step",
    ),
    "an average that forgets a step": (
        "averaging.py",
        "self.average.update(state.global_step)",
        "self.average.update(state.global_step) if state.global_step != 3 else None",
        "is not what ema_decay 0.5 makes",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, run, tmp_path):
    file, old, new, reason = MUTATIONS[name]
    tree = mutated_tree(f"tinystories/training/{file}", old, new)
    again = {"data_cache_dir": run.parent / "cache"}
    assert_stopped(fork_command("run_clm.py", *options(tmp_path / "run", **SETTINGS, **again), tree=tree), reason)
