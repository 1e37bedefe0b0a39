"""Disk space: the estimate has the size of what a run writes, and too little is reported before the first step."""

import pytest

from helpers.runs import mistake
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.arguments import RunArguments
from tinystories.training.budget import (
    SMALL_FILES,
    bytes_needed,
    check_disk_room,
    checkpoint_bytes,
    checkpoints_at_a_time,
    readable,
)


@pytest.mark.slow
def test_estimate(counting_run):
    """It has the size of what a run writes."""
    model, _ = load_checkpoint(str(counting_run))
    checkpoint = counting_run / "checkpoint-50"
    numbers = sum((checkpoint / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    estimated = checkpoint_bytes(model, optimizer_states_per_weight=2)
    assert estimated - SMALL_FILES == pytest.approx(numbers, rel=0.05)
    everything = sum(path.stat().st_size for path in counting_run.rglob("*") if path.is_file())
    assert everything <= bytes_needed(model, optimizer_states_per_weight=2, checkpoints=2)


def test_too_little_room(tmp_path):
    """One line with both sizes and what to do."""
    message = mistake(check_disk_room, tmp_path / "runs" / "new", 10**18)
    assert "1e+06 TB" in message and "--output_dir" in message and "--save_total_limit" in message
    assert not (tmp_path / "runs").exists()


def test_enough_room(tmp_path):
    """For a folder that does not exist yet."""
    assert check_disk_room(tmp_path / "runs" / "new", 1000).startswith("needs 1 kB, ")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (5e12, "5 TB")]
)
def test_readable(number, text):
    """Three digits and a unit."""
    assert readable(number) == text


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 10),
        ({"save_total_limit": 2}, 3),
        ({"save_total_limit": 1, "load_best_model_at_end": True}, 3),
        ({"eval_steps": 20, "save_steps": 500, "load_best_model_at_end": True}, 50),
        ({"save_log_spaced": True}, 17),
        ({"save_strategy": "no"}, 0),
    ],
)
def test_checkpoints_at_a_time(changes, number, tmp_path):
    """The new one is written before an old one goes, and every new best is saved."""
    settings = {"max_steps": 1000, "save_steps": 100, "eval_strategy": "steps", "eval_steps": 100}
    training = RunArguments(output_dir=str(tmp_path), **settings | changes)
    assert checkpoints_at_a_time(training, rows=1000) == number
