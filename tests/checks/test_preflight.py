"""check_run.py RECIPE: reports in seconds what would fail after hours, and leaves no files behind."""

import json

import pytest
import torch
from transformers import Trainer

from helpers.runs import TINY, as_options, run_command, write_counting_corpus
from tinystories.checks.preflight import CHECKS, Facts, _find, preflight
from tinystories.config.recipe import read_recipe
from tinystories.errors import UserError
from tinystories.training.budget import planned_steps


@pytest.fixture
def options(tmp_path):
    values = TINY | {"train_file": write_counting_corpus(tmp_path), "data_cache_dir": tmp_path / "cache"}
    return values | {"output_dir": tmp_path / "run", "max_steps": 20, "vocab_size": 290}


def statuses(result) -> dict[str, str]:
    return {check["name"]: check["status"] for check in result["checks"]}


def finding(result, name) -> str:
    check = next(check for check in result["checks"] if check["name"] == name)
    return f"{check['finding']} — {check['remedy']}"


@pytest.mark.slow
def test_sound_recipe(options, tmp_path):
    """As a command: its output and exit status. The run folder is not touched."""
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


def test_several_failures(options, tmp_path):
    """One failure does not hide the next."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"")
    options |= {"num_attention_heads": 3, "train_file": "missing.txt"}
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


def test_unreadable_recipe_skips_the_rest():
    result = preflight(["--learning_rte", "1"])
    assert statuses(result).pop("recipe") == "FAIL" and "learning_rate" in finding(result, "recipe")
    assert {status for name, status in statuses(result).items() if name != "recipe"} == {"skip"}


def test_long_remedy():
    """A remedy is a field of the error: a message that quotes "; " keeps all of its text."""

    def check(facts):
        raise UserError("file 'a; b.txt': no column 'c; d'", "name one with --text_column")

    found = _find("stories", check, Facts())
    assert (found.finding, found.remedy) == ("file 'a; b.txt': no column 'c; d'", "name one with --text_column")
    assert (
        str(UserError("wrong", "correct it")) == "wrong; correct it" and UserError("wrong; correct it").remedy is None
    )


@pytest.mark.slow
def test_dry_run_uses_no_callback_of_a_run(options):
    """It would print the Trainer's log, write samples to the run folder, or save checkpoints."""
    facts = Facts()
    facts.argv, facts.folder = as_options(options), str(options["output_dir"])
    for name in ("recipe", "stories", "tokenizer", "rows", "guards"):
        CHECKS[name](facts)
    ours = {type(callback).__name__ for callback in facts.trainer.callback_handler.callbacks}
    guards = {"LossGuard", "LossSpikeGuard", "StepWitness", "AverageWitness", "CausalAsTrained", "NumbersGuard"}
    assert ours == guards | {"DefaultFlowCallback", "TrainingLog", "ThroughputCallback", "WeightsMoved"}


def test_failed_guard_and_warnings(options, tmp_path):
    """A failed guard is a failed check; cut stories and many epochs are warnings."""
    options |= {"validation_file": options["train_file"], "block_size": 16, "max_steps": 100_000}
    result = preflight(as_options(options))
    assert statuses(result)["guards"] == "FAIL" and "--remove_overlap" in finding(result, "guards")
    assert statuses(result)["rows"] == "warn" and "larger block_size" in finding(result, "rows")
    assert statuses(result)["length"] == "warn" and "memorized" in finding(result, "length")
    assert not result["ready"] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_steps_without_a_finite_loss(options):
    result = preflight(as_options(options | {"learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0}))
    assert statuses(result)["steps"] == "FAIL" and "learning_rate" in finding(result, "steps")


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("batch", "accumulation", "rows", "epochs"), [(8, 1, 8, 2), (8, 3, 100, 1.5), (3, 4, 10, 4)])
def test_planned_steps_equal_the_trainers(batch, accumulation, rows, epochs, drop_last, tmp_path):
    keys = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    keys |= {"num_train_epochs": epochs, "dataloader_drop_last": drop_last, "output_dir": tmp_path}
    training = read_recipe(as_options(keys)).training
    trainer = Trainer(torch.nn.Linear(1, 1), training, train_dataset=[{"x": 0}] * rows)
    *_, steps = trainer.set_initial_training_values(training, trainer.get_train_dataloader())
    assert planned_steps(training, rows)[0] == steps


@pytest.mark.slow
def test_planned_steps_equal_a_runs(counting_run):
    state = json.loads((counting_run / "trainer_state.json").read_text(encoding="utf-8"))
    rows = json.loads((counting_run / "data_report.json").read_text(encoding="utf-8"))["packing"]["rows"]
    training = read_recipe([str(counting_run / "recipe.json")]).training
    steps, epochs = planned_steps(training, rows)
    assert steps == state["max_steps"] == 100
    assert epochs == pytest.approx(state["epoch"], rel=1e-3)
