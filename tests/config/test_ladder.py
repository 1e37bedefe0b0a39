"""The ladder of recipes: each file says how large its model is and how many tokens it sees, and says it truly."""

import math
import re

import pytest
import torch

from benchmarks.recipe_runs import TokenizerOfSize
from helpers.runs import ROOT, load_benchmark
from tinystories.checkpoint.loading import new_model
from tinystories.config.recipe import read_recipe


REFERENCE = ROOT / "configs" / "tinystories-24m.yaml"
LEAST_TOKENS = 100_000_000


def size_in_name(path) -> float:
    """Millions of parameters, as the file name gives them."""
    return float(re.fullmatch(r"tinystories-([\d.]+)m", path.stem).group(1))


LADDER = sorted((ROOT / "configs" / "ladder").glob("*.yaml"), key=size_in_name)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def parameters_of(recipe) -> int:
    with torch.device("meta"):
        model = new_model(recipe.model, TokenizerOfSize(recipe.tokenizer.vocab_size), recipe.data.block_size)
    assert all(weight.is_meta for weight in model.parameters()), "110M parameters need no memory to be counted"
    return model.num_parameters()


def rows_in_a_step(training) -> int:
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def test_rungs():
    assert [size_in_name(path) for path in LADDER] == [0.25, 1, 3, 8, 15, 42, 110]


@pytest.mark.parametrize("path", [*LADDER, REFERENCE], ids=lambda path: path.stem)
def test_size(path):
    """The model has the size that the file name and the first line give."""
    parameters = parameters_of(read_recipe([str(path), "--bf16", "false"]))
    assert parameters / 1e6 == pytest.approx(size_in_name(path), rel=0.05)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert number(re.search(r"([\d,]+) parameters", first).group(1)) == parameters


@pytest.mark.parametrize("path", LADDER, ids=lambda path: path.stem)
def test_budget(path):
    """The budget in the comment is what the recipe trains, and follows the rule."""
    recipe = read_recipe([str(path), "--bf16", "false"])
    training, parameters = recipe.training, parameters_of(recipe)
    rows = rows_in_a_step(training)
    tokens = training.max_steps * rows * recipe.data.block_size
    line = re.search(
        r"Budget: ([\d,]+) steps x ([\d,]+) rows x (\d+) tokens = ([\d,]+) tokens", path.read_text("utf-8")
    )
    assert [number(part) for part in line.groups()] == [training.max_steps, rows, recipe.data.block_size, tokens]
    wanted = max(LEAST_TOKENS, 20 * parameters)
    assert wanted <= tokens < wanted + rows * recipe.data.block_size, "not a step more than the rule asks for"


@pytest.mark.parametrize("path", LADDER, ids=lambda path: path.stem)
def test_optimizer(path):
    """Optimizer, schedule and learning rates are the best of the record, scaled to the width."""
    benchmark = load_benchmark("optimizers")
    record = benchmark.read_record()
    best = benchmark.compared(record["runs"])[0][0]
    recipe = read_recipe([str(path), "--bf16", "false"])
    training, scale = recipe.training, math.sqrt(record["recipe"]["hidden_size"] / recipe.model.hidden_size)
    assert training.optimizer == best["optimizer"]
    assert recipe.model.residual_init == "normal", "the others were not better by more than the seeds differ"
    assert [training.lr_scheduler_type, training.lr_scheduler_kwargs] == record["schedules"][best["schedule"]]
    assert training.muon_learning_rate == pytest.approx(best["muon_learning_rate"] * scale, rel=0.05)
    assert training.learning_rate == pytest.approx(best["learning_rate"] * scale, rel=0.05)


@pytest.mark.parametrize("path", LADDER, ids=lambda path: path.stem)
def test_table(path):
    """The row of docs/experiments.md agrees with the recipe."""
    recipe = read_recipe([str(path), "--bf16", "false"])
    model, training = recipe.model, recipe.training
    tokens = training.max_steps * rows_in_a_step(training) * recipe.data.block_size
    sizes = [model.num_hidden_layers, model.hidden_size, model.num_attention_heads]
    numbers = [parameters_of(recipe), *sizes, recipe.tokenizer.vocab_size, tokens]
    cells = [f"[{path.stem}](../{path.relative_to(ROOT).as_posix()})", *(f"{value:,}" for value in numbers)]
    cells += [f"{training.muon_learning_rate:g}", f"{training.learning_rate:g}"]
    assert f"| {' | '.join(cells)} |\n" in (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LADDER, ids=lambda path: path.stem)
def test_data_and_folder(path):
    """Trains on TinyStories, into a folder named after the recipe."""
    recipe = read_recipe([str(path), "--bf16", "false"])
    assert recipe.data.dataset_name == "roneneldan/TinyStories"
    assert recipe.training.output_dir == f"runs/{path.stem}"
    assert f"python run_clm.py {path.relative_to(ROOT).as_posix()}" in path.read_text(encoding="utf-8")
