"""Disk room: the estimate is of the size that a run really takes, and a full disk is said before the first step."""

import os

import pytest
from conftest import TINY, mistake

from tinystories.checkpoint import load_checkpoint
from tinystories.disk import SMALL_FILES, bytes_needed, check_disk_room, readable


def size_of(folder) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())


def test_the_estimate_is_the_size_of_a_finished_run(counting_run):
    model, _ = load_checkpoint(str(counting_run))
    checkpoints = TINY["max_steps"] // TINY["save_steps"]
    estimated = bytes_needed(model, optimizer_states_per_weight=2, checkpoints=checkpoints)
    numbers = estimated - (checkpoints + 1) * SMALL_FILES
    assert numbers < size_of(counting_run) <= estimated
    assert size_of(counting_run) - numbers < 2_000_000  # what is left of it are the small files


def test_too_little_room_is_one_line_with_both_sizes_and_what_to_do(tmp_path):
    message = mistake(check_disk_room, tmp_path / "runs" / "new", 10**18)
    assert "1e+06 TB" in message and "--output_dir" in message and "--save_total_limit" in message
    assert not (tmp_path / "runs").exists()


def test_enough_room_is_said_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert check_disk_room(tmp_path / "runs" / "new", 1000).startswith("needs 1 kB, ")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (5e12, "5 TB")]
)
def test_bytes_are_written_in_the_nearest_unit(number, text):
    assert readable(number) == text
