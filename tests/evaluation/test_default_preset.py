"""The default preset is the one that docs/results/presets.json found, and the measurement means what it says."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from helpers.runs import ROOT, load_benchmark
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS


BENCHMARK = load_benchmark("presets")
NONSENSE = ("copies of training stories", "one sentence repeated", "words shuffled")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(BENCHMARK.RECORD.read_text(encoding="utf-8"))


def test_default_is_the_nearest(record):
    """No way of sampling that was measured is nearer to people with every seed, and none of the old presets is near."""
    nearest = BENCHMARK.ranked(record)[0]
    assert not BENCHMARK.farther(record, DEFAULT_PRESET, nearest), f"{nearest} is nearer with every seed"
    for old in ("balanced", "conservative", "creative"):
        assert BENCHMARK.farther(record, old, DEFAULT_PRESET)


def test_presets_are_as_measured(record):
    """A preset that is changed has to be measured again."""
    assert next(iter(PRESETS)) == DEFAULT_PRESET  # the evaluation and the page show the first
    for name, settings in PRESETS.items():
        assert record["ways"][name] == vars(BENCHMARK.Way(**settings))


def test_document(record):
    document = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert BENCHMARK.with_numbers(document, record) == document


def test_distances_of_the_record(record):
    """They follow from its metrics; its tables and goals from both."""
    for name, found in record["distances"].items():
        assert found == pytest.approx(BENCHMARK.distances(record["metrics"][name], record["people"][name]))
    assert record["tables"] == [BENCHMARK.table_of(record)]
    assert record["goals"] == BENCHMARK.goals(record)
    assert record["did_not_help"] == BENCHMARK.did_not_help(record)


def test_distance_sees_what_is_not_people(record):
    """Other people are nearer than every way; nonsense, copies and greedy stories farther than the default."""
    for name in record["ways"]:
        assert BENCHMARK.farther(record, name, "other people"), name
    for name in (*NONSENSE, "greedy"):
        assert BENCHMARK.farther(record, name, DEFAULT_PRESET), name


def test_distance_by_hand():
    """One metric of seven, by 0.5 against 0.9 in one seed; people's mean is over the seeds, in log-odds."""
    people = {name: [0.2, 0.5, 0.8] for name in BENCHMARK.COMPARED}
    found = {name: [0.5, 0.5, 0.5] for name in BENCHMARK.COMPARED} | {"ended": [0.5, 0.9, 0.5]}
    assert BENCHMARK.distances(found, people) == pytest.approx([0, math.log(9) / 7, 0])
    missing = found | {"ended": [None, 0.0, 1.0]}  # nothing to judge is as bad as a share of 0
    assert BENCHMARK.distances(missing, people) == pytest.approx([math.log(499) / 7] * 3)


def test_farther():
    """With every seed, and not by a tie."""
    record = {"distances": {"a": [1, 1, 1], "b": [2, 2, 2], "c": [2, 2, 1], "d": [9, 9, 0.9]}}
    assert BENCHMARK.farther(record, "b", "a") and not BENCHMARK.farther(record, "a", "b")
    assert not BENCHMARK.farther(record, "c", "a") and not BENCHMARK.farther(record, "d", "a")


def test_a_nearer_way_is_found(record):
    """What is nearer with every seed is named; a control never is."""
    changed = copy.deepcopy(record)
    changed["distances"]["no 3-gram twice"] = [0.01] * 3
    changed["distances"]["greedy"] = changed["distances"]["other people"] = [0.001] * 3
    assert BENCHMARK.ranked(changed)[0] == "no 3-gram twice"
    assert BENCHMARK.farther(changed, DEFAULT_PRESET, "no 3-gram twice")


IDS = [3, 4, 5, 3, 4, 6, 3, 4]
TRIED = {
    "penalty": ({"repetition_penalty": 1.5}, IDS),
    "penalty on the last tokens": ({"repetition_penalty": 1.5, "last": 3}, [6, 3, 4]),
    "penalty but for names": ({"repetition_penalty": 1.5, "spares": True}, [3, 5, 3, 6, 3]),
}


class Kept:
    """In the place of the sampler within: keeps the scores that it is given."""

    def next_token(self, ids, scores):
        self.scores = scores
        return 0


def scores_of(way, logits):
    """What is left for the sampler; token 4 is a name."""
    tried = BENCHMARK.TriedSampler(way, 0, np.arange(len(logits)) == 4)
    tried.sampler = Kept()
    tried.next_token(IDS, logits)
    return tried.sampler.scores


@pytest.mark.parametrize("name", TRIED)
def test_tried_penalties(name):
    """Those of transformers, on the tokens that are named."""
    (settings, punished), logits = TRIED[name], np.random.default_rng(0).normal(size=9).astype(np.float32)
    expected = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([punished]), torch.from_numpy(logits)[None].clone())
    found = scores_of(BENCHMARK.Way(**settings), logits)
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 9, 20])
def test_tried_ngrams(n):
    """As transformers', also where the story is as long as the n-gram or shorter."""
    logits = np.random.default_rng(0).normal(size=9).astype(np.float32)
    expected = NoRepeatNGramLogitsProcessor(n)(torch.tensor([IDS]), torch.from_numpy(logits)[None].clone())
    found = scores_of(replace(BENCHMARK.PLAIN, ngram=n), logits)
    np.testing.assert_array_equal(found, expected[0].numpy())
