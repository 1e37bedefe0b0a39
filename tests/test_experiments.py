"""docs/experiments.md agrees with its record, and the record is complete."""

from collections import defaultdict
from itertools import product
from statistics import mean

from helpers.runs import ROOT, as_options, load_benchmark
from tinystories.config.recipe import read_recipe


BENCHMARK = load_benchmark("optimizers")
RUNS = BENCHMARK.read_record()["runs"]
DOCUMENT = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def test_tables_match_record():
    """Tables edited by hand, or left behind by a new record."""
    assert BENCHMARK.with_tables(DOCUMENT, RUNS) == DOCUMENT


def test_comparison_is_fair():
    """Every choice has every seed, and all runs have the same number of tokens and of scored stories."""
    groups = BENCHMARK.compared(RUNS)
    assert all([run["seed"] for run in group] == list(BENCHMARK.SEEDS) for group in groups)
    assert len({(run["tokens"], run["stories"]) for run in RUNS}) == 1
    tried = {(group[0]["optimizer"], group[0]["schedule"]) for group in groups}
    assert tried == set(product(("adamw", "muon"), BENCHMARK.SCHEDULES))
    assert {group[0]["residual_init"] for group in groups} == {"normal", "zero", "depth_scaled"}


def test_best_rate_is_inside_sweep():
    """A best rate at the edge of a sweep would mean that a better one was not tried."""
    sweeps = defaultdict(list)
    for run in filter(BENCHMARK.is_sweep, RUNS):
        sweeps[run["optimizer"], BENCHMARK.width(run)].append((BENCHMARK.rates(run), run["bits_per_byte"]))
    assert len(sweeps) == 3
    for sweep in sweeps.values():
        scores = [score for _, score in sorted(sweep)]
        assert min(scores) < min(scores[0], scores[-1])


def test_recipe_is_valid():
    """The benchmark can still be run, and the record was made with its recipe."""
    assert read_recipe(as_options(BENCHMARK.RECIPE)).training.max_steps == BENCHMARK.RECIPE["max_steps"]
    assert BENCHMARK.read_record()["recipe"] == BENCHMARK.RECIPE


def test_conclusions_hold():
    """Each sentence under "Conclusions", and the one on the sweep at twice the width, follows from the record."""
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


def test_pieces():
    """The table is the record's; the runs of a seed saw the same stories; ours cost English nothing."""
    benchmark = load_benchmark("pretokenizer")
    record = benchmark.read_record()
    assert benchmark.with_table(DOCUMENT, record) == DOCUMENT
    assert record["recipe"] == benchmark.RECIPE and read_recipe(as_options(benchmark.RECIPE))
    assert sorted((run["pieces"], run["seed"]) for run in record["runs"]) == sorted(
        product(benchmark.PIECES, benchmark.SEEDS)
    )
    assert len({run["stories"] for run in record["runs"]}) == 1
    theirs, ours = (benchmark.scores(record, name) for name in (benchmark.GPT2, benchmark.OURS))
    assert all(ours[seed] <= theirs[seed] + 0.002 for seed in benchmark.SEEDS)
