"""docs/experiments.md says what its record says, and the record holds what the experiment was to measure."""

from collections import defaultdict
from itertools import product

from conftest import ROOT, as_options, load_benchmark

from tinystories.recipe import read_recipe


BENCHMARK = load_benchmark("optimizers")
RUNS = BENCHMARK.read_record()["runs"]
DOCUMENT = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_record():
    assert BENCHMARK.with_tables(DOCUMENT, RUNS) == DOCUMENT


def test_every_choice_has_all_its_seeds_and_saw_as_many_tokens_and_stories():
    groups = BENCHMARK.compared(RUNS)
    assert all([run["seed"] for run in group] == list(BENCHMARK.SEEDS) for group in groups)
    assert len({(run["tokens"], run["stories"]) for run in RUNS}) == 1
    tried = {(group[0]["optimizer"], group[0]["schedule"]) for group in groups}
    assert tried == set(product(("adamw", "muon"), BENCHMARK.SCHEDULES))
    assert {group[0]["residual_init"] for group in groups} == {"normal", "zero", "depth_scaled"}


def test_the_best_learning_rate_is_neither_the_lowest_nor_the_highest_that_was_tried():
    sweeps = defaultdict(list)
    for run in filter(BENCHMARK.is_sweep, RUNS):
        sweeps[run["optimizer"], BENCHMARK.width(run)].append((BENCHMARK.rates(run), run["bits_per_byte"]))
    assert len(sweeps) == 3
    for sweep in sweeps.values():
        scores = [score for _, score in sorted(sweep)]
        assert min(scores) < min(scores[0], scores[-1])


def test_the_recipe_of_the_experiment_is_still_understood():
    assert read_recipe(as_options(BENCHMARK.RECIPE)).training.max_steps == BENCHMARK.RECIPE["max_steps"]
    assert BENCHMARK.read_record()["recipe"] == BENCHMARK.RECIPE
