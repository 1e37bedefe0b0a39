"""docs/experiments.md says what its record says, and the record holds what the experiment was to measure."""

from collections import defaultdict
from itertools import product
from statistics import mean

from helpers.runs import ROOT, as_options, load_benchmark
from tinystories.config.recipe import read_recipe


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


def test_what_the_document_concludes_is_so():
    groups = BENCHMARK.compared(RUNS)
    scores = {
        (g[0]["optimizer"], g[0]["schedule"], g[0]["residual_init"]): [r["bits_per_byte"] for r in g] for g in groups
    }
    muon, adamw = ([s for key, group in scores.items() if key[0] == name for s in group] for name in ("muon", "adamw"))
    assert max(muon) < min(adamw), "every Muon run ended below every AdamW run"
    cosine, linear, stable = BENCHMARK.SCHEDULES
    for optimizer in ("muon", "adamw"):
        assert max(scores[optimizer, stable, "normal"]) < min(scores[optimizer, cosine, "normal"])
        assert mean(scores[optimizer, cosine, "normal"]) < mean(scores[optimizer, linear, "normal"])
    inits = [mean(scores["muon", stable, residual_init]) for residual_init in ("normal", "zero", "depth_scaled")]
    assert max(inits) - min(inits) < max(max(group) - min(group) for group in scores.values())
    sweep = {}
    for run in filter(BENCHMARK.is_sweep, RUNS):
        if run["optimizer"] == "muon":
            sweep[BENCHMARK.width(run), run["muon_learning_rate"]] = run["bits_per_byte"]
    lower, higher = ([sweep[width, rate] - sweep[width, 8e-3] for width in (64, 128)] for rate in (4e-3, 1.6e-2))
    assert lower[0] > lower[1] > 0 and 0 < higher[0] < higher[1]
