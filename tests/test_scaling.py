"""docs/scaling.md and the law in the package agree with the record, and the record shows what it must."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from helpers.runs import ROOT, as_options, load_benchmark
from tinystories.checks.prediction import FIT, LAW, Plan, predict, read_fit
from tinystories.config.recipe import read_recipe


BENCHMARK = load_benchmark("scaling")
RECORD = json.loads(BENCHMARK.RECORD.read_text(encoding="utf-8"))
DOCUMENT = ROOT / "docs" / "scaling.md"


def test_document_matches_record():
    """Tables edited by hand, or left behind by a new record."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert BENCHMARK.page(text, RECORD, read_fit()) == text


def test_law_matches_record(tmp_path):
    """The law in the package was fitted to other runs, or by other code."""
    BENCHMARK.write_fit(RECORD, tmp_path / FIT.name)
    fitted, packaged = read_fit(tmp_path / FIT.name), read_fit()
    assert (fitted.range, fitted.family, fitted.profile) == (packaged.range, packaged.family, packaged.profile)
    np.testing.assert_allclose(fitted.law, packaged.law, rtol=1e-3)
    np.testing.assert_allclose(fitted.draws, packaged.draws, rtol=0.01)
    assert fitted.residual == pytest.approx(packaged.residual, rel=1e-3) and len(packaged.law) == len(LAW)


def test_prediction_came_first():
    """What is recorded as predicted is what the law says, and its run is outside the runs of the fit."""
    score, plan = RECORD["prediction"]["score"], RECORD["held_out"]["plan"]
    found = asdict(predict(Plan(**plan), read_fit()))
    assert found.pop("outside") == score["outside"]
    assert found == pytest.approx({name: score[name] for name in found}, rel=1e-3)
    for quantity in ("parameters", "bytes_seen"):
        held_out, fitted = ({**run, **run["plan"]}[quantity] for run in (RECORD["held_out"], _largest(quantity)))
        assert held_out > fitted
    assert RECORD["held_out"]["name"] not in {run["name"] for run in RECORD["runs"]}


def _largest(quantity):
    return max(RECORD["runs"], key=lambda run: {**run, **run["plan"]}[quantity])


def test_family_is_a_recipe():
    """The runs can be trained again: their keys are those of a recipe, and the record was made with them."""
    assert RECORD["family"] == json.loads(json.dumps(BENCHMARK.FAMILY)) and RECORD["rates"] == BENCHMARK.RATES
    for rung in (*BENCHMARK.RUNGS, BENCHMARK.HELD_OUT, *BENCHMARK.QUICK):
        keys = {name: BENCHMARK.as_option(value) for name, value in BENCHMARK.keys(rung, 1).items()}
        assert read_recipe(as_options(keys)).training.max_steps == rung.steps
    names = [rung.name for rung in BENCHMARK.RUNGS]
    assert len(set(names)) == len(names)


def test_runs_of_the_full_fit():
    """The run that is held out is larger than all others, in weights and in text, also before anything is trained."""
    widths = [rung.shape["hidden_size"] for rung in BENCHMARK.RUNGS]
    assert BENCHMARK.HELD_OUT.shape["hidden_size"] > max(widths)
    assert BENCHMARK.HELD_OUT.steps > max(rung.steps for rung in BENCHMARK.RUNGS)
