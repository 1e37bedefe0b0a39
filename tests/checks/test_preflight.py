"""check_run.py RECIPE: what would go wrong in hours is said in seconds, and nothing is left behind."""

import json

import pytest
import torch
from transformers import Trainer

from helpers.runs import TINY, as_options, run_command, write_counting_corpus
from tinystories.checks.preflight import preflight
from tinystories.config.recipe import read_recipe
from tinystories.training.budget import planned_steps


@pytest.fixture
def options(tmp_path):
    values = TINY | {"train_file": write_counting_corpus(tmp_path), "data_cache_dir": tmp_path / "cache"}
    return values | {"output_dir": tmp_path / "run", "max_steps": 20, "vocab_size": 300}


def statuses(result) -> dict[str, str]:
    return {check["name"]: check["status"] for check in result["checks"]}


def finding(result, name) -> str:
    check = next(check for check in result["checks"] if check["name"] == name)
    return f"{check['finding']} — {check['remedy']}"


def test_a_sound_recipe_is_ready_and_its_run_folder_is_not_touched(options, tmp_path):
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "result.json"
    recipe.write_text("\n".join(f"{key}: {json.dumps(value, default=str)}" for key, value in options.items()))
    process = run_command("check_run.py", recipe, "--gradient_accumulation_steps", "2", "--output_file", out)
    assert process.returncode == 0, process.stdout + process.stderr[-2000:]
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["ready"] and set(statuses(result).values()) == {"ok"}
    lines = process.stdout.splitlines()
    assert lines[-1] == "ready" and [line[:4].strip() for line in lines[:-1]] == [*statuses(result).values()]
    assert finding(result, "length").startswith("20 steps of 16 rows, ")
    estimate = result["estimate"]
    assert 0 < 20 * estimate["seconds_per_step"] < estimate["seconds"] < 600
    assert estimate["peak_memory_bytes"] > 1e7
    assert not (tmp_path / "run").exists()


def test_one_failure_does_not_hide_the_next(options, counting_run):
    options |= {"num_attention_heads": 3, "train_file": "missing.txt", "output_dir": counting_run}
    result = preflight(as_options(options))
    assert not result["ready"]
    expected = {"recipe": "ok", "output_dir": "FAIL", "device": "ok", "stories": "FAIL", "model": "FAIL"}
    assert statuses(result).items() >= expected.items()
    assert "--resume" in finding(result, "output_dir")
    assert "missing.txt" in finding(result, "stories")
    assert "hidden_size" in finding(result, "model") or "num_attention_heads" in finding(result, "model")
    assert "the stories are not known" in finding(result, "guards")
    assert statuses(result)["guards"] == statuses(result)["steps"] == "skip"
    assert result["estimate"] is None


def test_a_recipe_that_cannot_be_read_skips_what_needs_it():
    result = preflight(["--learning_rte", "1"])
    assert statuses(result).pop("recipe") == "FAIL" and "learning_rate" in finding(result, "recipe")
    assert {status for name, status in statuses(result).items() if name != "recipe"} == {"skip"}


def test_a_guard_that_fails_fails_the_check_and_long_stories_and_epochs_are_warned_of(options, tmp_path):
    options |= {"validation_file": options["train_file"], "block_size": 16, "max_steps": 100_000}
    result = preflight(as_options(options))
    assert statuses(result)["guards"] == "FAIL" and "--remove_overlap" in finding(result, "guards")
    assert statuses(result)["rows"] == "warn" and "larger block_size" in finding(result, "rows")
    assert statuses(result)["length"] == "warn" and "learned by heart" in finding(result, "length")
    assert not result["ready"] and not (tmp_path / "run").exists()


def test_steps_that_give_no_number_fail_the_check(options):
    result = preflight(as_options(options | {"learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0}))
    assert statuses(result)["steps"] == "FAIL" and "learning_rate" in finding(result, "steps")


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("batch", "accumulation", "rows", "epochs"), [(8, 1, 8, 2), (8, 3, 100, 1.5), (3, 4, 10, 4)])
def test_the_planned_steps_are_those_of_the_trainer(batch, accumulation, rows, epochs, drop_last, tmp_path):
    keys = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    keys |= {"num_train_epochs": epochs, "dataloader_drop_last": drop_last, "output_dir": tmp_path}
    training = read_recipe(as_options(keys)).training
    trainer = Trainer(torch.nn.Linear(1, 1), training, train_dataset=[{"x": 0}] * rows)
    *_, steps = trainer.set_initial_training_values(training, trainer.get_train_dataloader())
    assert planned_steps(training, rows)[0] == steps


def test_the_planned_steps_are_those_that_a_run_took(counting_run):
    state = json.loads((counting_run / "trainer_state.json").read_text(encoding="utf-8"))
    rows = json.loads((counting_run / "data_report.json").read_text(encoding="utf-8"))["packing"]["rows"]
    training = read_recipe([str(counting_run / "recipe.json")]).training
    steps, epochs = planned_steps(training, rows)
    assert steps == state["max_steps"] == 100
    assert epochs == pytest.approx(state["epoch"], rel=1e-3)
