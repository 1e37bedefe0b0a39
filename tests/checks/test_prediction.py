"""check_run.py RECIPE --predict: the law, its fit, its interval, what it refuses, and the record behind it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks.recipe_runs import TokenizerOfSize
from helpers.runs import (
    TINY,
    as_options,
    load_benchmark,
    mistake,
    run_command,
    write_counting_corpus,
)
from tinystories.checkpoint.loading import new_model
from tinystories.checks.prediction import (
    MOST_DOUBLINGS,
    Fit,
    NoPredictionError,
    Plan,
    bits_per_byte,
    check_text,
    commonest,
    family_differences,
    plan,
    predict,
    read_fit,
    student,
)
from tinystories.checks.preflight import NOT_PREDICTING, preflight
from tinystories.config.recipe import read_recipe
from tinystories.data.sample_corpus import sample_stories


SCALING = load_benchmark("scaling")
FITTING = load_benchmark("scaling_fit")
TRUE = np.array([0.3, 0.2, 0.45, 0.5, 0.35, 8.0, 0.006, 1.6])
DECAY = {"num_decay_steps": 0.2, "decay_type": "1-sqrt"}
FAMILY = {"optimizer": "muon", "lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": DECAY}
FAMILY |= {"weight_decay": 0.1}
MUON = FAMILY | {"lr_scheduler_kwargs": json.dumps(DECAY)}


def planned(parameters, unique_bytes, epochs) -> Plan:
    return Plan(parameters, unique_bytes, epochs, 1024, 8192, 512, 4e-3, 8e-3)


def synthetic(noise: float, seed: int = 0, seeds: int = 1):
    """Rungs as those of the benchmark, which follow the law TRUE."""
    generator = np.random.default_rng(seed)
    found = []
    for size in (1.3e5, 5.5e5, 1.3e6, 3.1e6):
        for text, lengths in ((11.7e6, (0.5, 1, 2)), (2.9e6, (2, 4, 8))):
            for epochs in lengths:
                score = bits_per_byte(TRUE, size, text, epochs)
                scores = score * np.exp(noise * generator.standard_normal(seeds))
                found.append(FITTING.Point(planned(size, text, epochs), tuple(scores)))
    return found


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return replace(FITTING.fit(synthetic(0.01, seed=1)), family=FAMILY, profile=commonest(sample_stories(200)))


def test_law_by_hand():
    law = np.array([0.25, 0.5, 1.0, 1.5, 0.5, 2.0, 0.1, 2.0])
    assert bits_per_byte(law, 1e6, 1e7, 1) == pytest.approx(0.25 + 0.5 + 1.5)
    assert bits_per_byte(law, 2e6, 1e7, 0.25) == pytest.approx(0.25 + 0.25 + 1.5 / 0.5)
    seen = 4 * (1 + 2 * (1 - np.exp(-2 / 2)))  # 40 MB, two repeats
    assert bits_per_byte(law, 1e6, 4e7, 3) == pytest.approx(0.25 + 0.5 + 1.5 / seen**0.5 + (0.1 / 4 * 2) ** 2)
    several = bits_per_byte(np.stack([law, law]), np.array([1e6, 2e6, 1e6]), np.full(3, 1e7), np.array([1, 0.25, 1]))
    assert several.shape == (2, 3) and several[1, 1] == pytest.approx(3.5)


def test_interval_by_hand():
    """The draws, the residual and the seeds add up as squares, in logarithms."""
    law = np.array([0.25, 0.5, 1.0, 1.5, 0.5, 2.0, 0.1, 2.0])
    draws = np.stack([law * 1.0, law * 1.0])
    draws[:, 0] += (0.1, -0.1)  # scores of 2.35 and 2.15
    ranges = {name: [value, value] for name, value in asdict(planned(1e6, 1e7, 1)).items()} | {"bytes_seen": [1e7, 1e7]}
    fit = Fit(law, draws, 0.03, 0.02, 10, ranges, {}, {})
    found = predict(planned(1e6, 1e7, 1), fit)
    spread = np.hypot(np.hypot(np.log(2.35 / 2.15) / 2, 0.03), 0.02)
    assert found.bits_per_byte == pytest.approx(2.25) and found.outside == []
    assert found.high == pytest.approx(2.25 * np.exp(1.8125 * spread), rel=1e-3)  # Student's t for 10
    assert found.low * found.high == pytest.approx(2.25**2)


@pytest.mark.parametrize(("freedom", "t"), [(5, 2.015), (17, 1.740), (10**6, 1.645)])
def test_student(freedom, t):
    """Values of the printed tables; 0.9 of all values are between -t and t."""
    assert student(0.9, freedom) == pytest.approx(t, abs=3e-3)


def test_fit_recovers_law():
    """From exact runs, in the range of the fit and beyond it, whatever is believed before."""
    found = FITTING.fit(synthetic(0.0))
    assert found.residual < 0.003
    for size, text, epochs in ((2e6, 11.7e6, 1.5), (1e6, 2.9e6, 7), (6e6, 11.7e6, 4), (3e6, 4e7, 1)):
        expected = bits_per_byte(TRUE, size, text, epochs)
        assert bits_per_byte(found.law, size, text, epochs) == pytest.approx(expected, rel=0.02)


def test_interval_holds_new_runs():
    """Nine of ten, of a run that is outside the fit, in 16 experiments with noise; and it is no wider than needed."""
    inside, widths = 0, []
    for seed in range(16):
        found = predict(planned(6e6, 11.7e6, 4), FITTING.fit(synthetic(0.01, seed)))
        reached = bits_per_byte(TRUE, 6e6, 11.7e6, 4) * np.exp(
            0.01 * np.random.default_rng(100 + seed).standard_normal()
        )
        inside += found.low <= reached <= found.high
        widths.append(found.high / found.low)
    assert inside >= 13 and np.median(widths) < 1.25


def test_left_out_rungs_are_predicted_by_the_others():
    """A point that does not follow the law is outside: it must not be in the fit that predicts it."""
    points = synthetic(0.005)[:16]
    wrong = FITTING.Point(points[7].plan, (1.3 * points[7].scores[0],))
    checked = FITTING.leave_one_out([*points[:7], wrong, *points[8:]])
    assert checked[7]["inside"] == 0 and checked[7]["predicted"] == pytest.approx(points[7].scores[0], rel=0.05)
    assert sum(one["inside"] for one in checked) >= 14


def test_simpler_laws():
    """Where repeats and memorizing count, a law without them predicts left-out recipes worse."""
    points = synthetic(0.003)
    own, *simpler = (FITTING.error_of_left_out(points, fixed) for fixed in ({}, *FITTING.SIMPLER.values()))
    assert own < 0.01 and all(error > 2 * own for error in simpler)


def test_seed_spread():
    points = [FITTING.Point(planned(1e6, 1e7, 1), scores) for scores in ((1.0, np.exp(0.02)), (2.0,), (1.0, 1.0))]
    assert FITTING.seed_spread(points) == pytest.approx(0.02 / 2)  # pooled: squares of 0.01, 0.01, 0, 0; two degrees


def test_outside_range_widens(fitted):
    """At the edge nothing is said; beyond it what and how far, and the interval is wider; far beyond, no prediction."""
    edge = planned(3.1e6, 11.7e6, 2)
    assert predict(edge, fitted).outside == []
    beyond = predict(replace(edge, parameters=6.2e6, vocabulary=2048), fitted)
    assert beyond.outside == ["parameters 6.2M (fit: 130k to 3.1M)", "vocabulary 2048 (fit: 1024)"]
    assert beyond.high / beyond.low > (predict(edge, fitted).high / predict(edge, fitted).low) ** 1.5
    assert "wider because of parameters 6.2M" in str(beyond)
    far = 2.0**MOST_DOUBLINGS
    assert predict(replace(edge, tokens_per_step=0.99 * far * 8192), fitted)
    assert "too far" in mistake(predict, replace(edge, tokens_per_step=1.01 * far * 8192), fitted)
    assert "too far" in mistake(predict, replace(edge, tokens_per_step=8192 / far / 1.01), fitted)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"optimizer": "adamw", "lr_scheduler_type": "linear", "lr_scheduler_kwargs": "{}"}, "optimizer muon"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": "{}"}, "lr_scheduler_type warmup_stable_decay"),
        ({"model_name_or_path": "somebody/other"}, "continues a checkpoint"),
        ({"streaming": True, "max_steps": 10}, "stream"),
    ],
)
def test_recipes_without_prediction(keys, words, fitted):
    assert words in mistake(family_differences, read_recipe(as_options(MUON | keys)), fitted)


def test_difference_of_family(fitted):
    """A key of all runs that a recipe changes is named, and the interval is wider."""
    assert family_differences(read_recipe(as_options(MUON)), fitted) == []
    [found] = family_differences(read_recipe(as_options(MUON | {"weight_decay": 0.4})), fitted)
    assert found == "weight_decay 0.4 (fit: 0.1)"
    near, far = (predict(planned(1e6, 11.7e6, 1), fitted, differences) for differences in ([], [found]))
    assert far.high > near.high and far.outside == [found]


def test_another_text(fitted):
    """Other stories of the same kind pass; another language and text that is no story do not."""
    assert check_text(sample_stories(100, seed=7), fitted) < 0.1
    for text in ("Había una vez una niña que vivía en un bosque muy verde.", "def law(x):\n    return x**2\n"):
        with pytest.raises(NoPredictionError, match="apart"):
            check_text([text] * 50, fitted)


def test_plan_of_a_recipe():
    """Counted by hand: 2 layers of width 64, vocabulary 320; the rates at the width of the fit."""
    keys = TINY | {
        "hidden_size": 256,
        "intermediate_size": 128,
        "gradient_accumulation_steps": 3,
        "muon_learning_rate": 2e-3,
    }
    recipe = read_recipe(as_options(keys | {"optimizer": "muon"}))
    with torch.device("meta"):
        model = new_model(recipe.model, TokenizerOfSize(320), recipe.data.block_size)
    data = {"packing": {"tokens": 1020, "stories": 10}, "tokenizer": {"bytes_per_token": 2.5, "vocab_size": 320}}
    found = plan(recipe, model, data, 1.5)
    matrices = 2 * (4 * 256 * 256 + 3 * 256 * 128) + 320 * 256
    assert found == Plan(matrices, 2500, 1.5, 320, 8 * 3 * 64, 64, pytest.approx(2e-2), pytest.approx(4e-3))


@pytest.fixture
def own_fit(tmp_path):
    """A recipe on the counting corpus, and a fit whose text is that corpus."""
    corpus = write_counting_corpus(tmp_path)
    options = TINY | MUON | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "vocab_size": 290}
    options |= {"output_dir": tmp_path / "run", "max_steps": 20, "skip_guards": True}
    record = {"runs": [], "family": FAMILY, "profile": commonest(corpus.read_text(encoding="utf-8").split("\n"))}
    changed = {"vocabulary": 290, "tokens_per_step": 512, "block_size": 64}
    for place, point in enumerate(synthetic(0.01)):
        like = replace(point.plan, **changed, unique_bytes=point.plan.unique_bytes / 400, learning_rate=1e-2)
        run = {"plan": asdict(replace(like, muon_learning_rate=1e-2)), "bits_per_byte": point.scores[0]}
        record["runs"].append({"name": str(place), **run})
    SCALING.write_fit(record, tmp_path / "law.json")
    return options, tmp_path / "law.json"


@pytest.mark.slow
def test_command(own_fit, tmp_path):
    """Score and time are printed and in the JSON file, although there is a run in output_dir."""
    options, fit = own_fit
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}", encoding="utf-8")
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "found.json"
    recipe.write_text("\n".join(f"{key}: {json.dumps(value, default=str)}" for key, value in options.items()))
    process = run_command("check_run.py", recipe, "--predict", "--fit", fit, "--output_file", out)
    assert process.returncode == 0, process.stdout + process.stderr[-2000:]
    score, steps = process.stdout.splitlines()
    assert score.startswith("ok    score: ") and steps.startswith("ok    steps: ") and " between " in steps
    found = json.loads(out.read_text(encoding="utf-8"))
    assert f"{found['prediction']['bits_per_byte']:.3f} bits per byte, 90% interval" in score
    assert found["prediction"]["low"] < found["prediction"]["bits_per_byte"] < found["prediction"]["high"]
    assert found["estimate"]["seconds_low"] < found["estimate"]["seconds"] < found["estimate"]["seconds_high"]
    assert "wider because of parameters" in score and len(found["prediction"]["outside"]) == 1


def test_refused(own_fit):
    """The preflight says why there is no prediction, and is ready all the same."""
    options, _ = own_fit
    without = [*NOT_PREDICTING, "guards", "steps"]
    result = preflight(as_options(options), left_out=without)
    [score] = [check for check in result["checks"] if check["name"] == "score"]
    assert result["ready"] and score["status"] == "ok" and score["finding"].startswith("no prediction: ")
    assert score["finding"] == f"no prediction: {result['prediction']['refused']}"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"law": "no"}', "{"])
def test_damaged_fit(text, tmp_path):
    path = tmp_path / "scaling.json"
    path.write_text(text, encoding="utf-8")
    assert str(path) in mistake(read_fit, path) and "scaling.json" in mistake(
        read_fit, tmp_path / "no" / "scaling.json"
    )
