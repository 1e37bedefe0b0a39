"""The sampler draws what transformers' processors and torch draw."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tinystories.generation.sampler import Adjustments, Sampler, Settings, _largest, _noise


PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 7.0},
    *({"top_k": k} for k in (1, 2, 40, 199, 200, 201, 10**6)),
    *({"top_p": p} for p in (1e-9, 0.02, 0.5, 0.95, 0.999999)),
    *({"min_p": p} for p in (1e-9, 0.05, 0.9, 1.0)),
    *({"repetition_penalty": penalty} for penalty in (0.5, 1.3, 10.0)),
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2, "min_p": 0.1},
]


class StableTopP(TopPLogitsWarper):
    """Equal scores in the order of their tokens, in which torch's sort leaves them on some processors only."""

    def __call__(self, input_ids, scores):
        with mock.patch.object(torch, "sort", partial(torch.sort, stable=True)):
            return super().__call__(input_ids, scores)


def drawn_by_transformers(ids, logits, generator, settings: dict) -> int:
    """With the processors that `generate` makes of these settings, in its order."""
    s = PLAIN | settings
    made = [
        RepetitionPenaltyLogitsProcessor(s["repetition_penalty"]) if s["repetition_penalty"] != 1 else None,
        TemperatureLogitsWarper(s["temperature"]) if s["temperature"] != 1 else None,
        TopKLogitsWarper(s["top_k"]) if s["top_k"] else None,
        StableTopP(s["top_p"]) if s["top_p"] < 1 else None,
        MinPLogitsWarper(s["min_p"]) if s.get("min_p") else None,
    ]
    scores = LogitsProcessorList(filter(None, made))(torch.tensor([ids]), torch.from_numpy(logits)[None].clone())
    return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))


def logits_of(kind: str, random: np.random.Generator) -> np.ndarray:
    logits = (random.normal(size=200) * 3).astype(np.float32)
    if kind == "ties":
        return np.round(logits)
    if kind == "all equal":
        return np.full_like(logits, 0.5)
    if kind == "banned":
        logits[random.integers(200, size=150)] = -np.inf
    if kind == "one left":
        logits[1:] = -np.inf
    return logits


@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "banned", "one left"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_processors(settings, kind):
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(11)
    own = {name: value for name, value in settings.items() if name != "min_p"}
    sampler = Sampler(Settings(**PLAIN | own), 11, 2, Adjustments(min_p=settings.get("min_p", 0.0)))
    ids = [3, 7]
    for _ in range(30):
        logits = logits_of(kind, random)
        before = logits.copy()
        token = sampler.next_token(ids, logits)
        assert token == drawn_by_transformers(ids, before, generator, settings)
        assert (logits == before).all()
        ids.append(token)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1])
def test_noise(seed):
    """The very numbers of torch's generator, draw after draw; a release of torch may change them."""
    generator, sampler = torch.Generator().manual_seed(seed), Sampler(Settings(**PLAIN), seed)
    for size in (1, 300, 15, 16, 4097):
        words = sampler._words._random.randint(0, 1 << 32, size=(size, 2), dtype=np.uint32)
        drawn = torch.empty(size).exponential_(generator=generator).numpy()
        np.testing.assert_array_almost_equal_nulp(_noise(words), drawn, 1)


def test_largest():
    """Of any number of scores, with and without equal ones and -inf."""
    random = np.random.default_rng(0)
    for size in (2, 15, 16, 17, 33, 500, 4096):
        for kind in range(3):
            scores = np.round(random.normal(size=size) * 10**kind, 2 - kind).astype(np.float32)
            scores[random.random(size) < 0.3] = -np.inf
            for number in {1, 2, size // 20 + 1, size // 2, size - 1} - {size}:
                assert _largest(scores, number) == np.sort(scores)[-number]


def test_greedy():
    """The likeliest, the first of equal ones, after the repetition penalty alone."""
    sampler = Sampler(Settings(temperature=0, top_k=5, top_p=0.5, repetition_penalty=2.0), 0)
    logits = np.array([0.0, 4.0, 3.0, 3.0, -1.0], dtype=np.float32)
    assert sampler.next_token([4], logits) == 1
    assert sampler.next_token([4, 1], logits) == 2
    assert sampler.next_token([4, 1, 2], logits) == 3


def test_adjustments():
    """Penalties of the tokens after the prompt: once, and each time; biases; the strongest ones ban and force."""
    greedy, logits = Settings(**PLAIN | {"temperature": 0}), np.array([3.0, 2.8, 2.6, 1.0], dtype=np.float32)

    def drawn(ids: list[int], **adjustments) -> int:
        return Sampler(greedy, 0, prompt_tokens=1, adjustments=Adjustments(**adjustments)).next_token(ids, logits)

    assert drawn([0], presence_penalty=1.0) == 0
    assert drawn([1, 0], presence_penalty=0.3) == 1
    assert drawn([1, 0, 0, 0], presence_penalty=0.15) == 0
    assert drawn([1, 0, 0, 0], frequency_penalty=0.1) == 1
    assert drawn([1, 0, 0], frequency_penalty=0.09) == 0
    assert drawn([2], logit_bias=((3, 1.9), (3, 0.2))) == 3
    assert drawn([2], logit_bias=((0, -100.0), (1, -100.0))) == 2
    assert drawn([2], logit_bias=((3, 100.0), (2, 100.0))) == 2
    assert drawn([2, 3], logit_bias=((3, 100.0),), presence_penalty=2.0) == 3


def test_no_numbers():
    """What has no probabilities is an error, as in torch, not the first token."""
    for bad in (np.full(5, -np.inf), np.array([0.0, np.nan, 1.0]), np.array([0.0, np.inf])):
        with pytest.raises(ValueError, match="no numbers"):
            Sampler(Settings(**PLAIN), 0).next_token([1], bad.astype(np.float32))


def test_from_config():
    """A generation config that asks for more than the sampler does has no settings."""
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=9, top_p=0.8, repetition_penalty=1.1)
    assert Settings.of(config) == Settings(0.7, 9, 0.8, 1.1)
    assert Settings.of(GenerationConfig(do_sample=False)) == Settings(0, 0, 1.0, 1.0)
    assert Settings.of(GenerationConfig(do_sample=False, temperature=None, top_k=None)) == Settings(0, 0, 1.0, 1.0)
    for more in ({"num_beams": 2}, {"no_repeat_ngram_size": 3}, {"min_new_tokens": 5}, {"typical_p": 0.5}):
        assert Settings.of(GenerationConfig(do_sample=True, **more)) is None


def test_looking_ahead_changes_nothing():
    """What is drawn ahead is drawn again, and the tokens after that are those of a sampler that never looked ahead."""
    settings, random = Settings(0.9, 0, 1.0, 1.3), np.random.default_rng(0)
    rows = random.normal(size=(12, 50)).astype(np.float32)
    plain, sampler, story = Sampler(settings, 3), Sampler(settings, 3), [1]
    for number in range(0, 12, 3):
        ahead, looking = list(story), sampler.looking_ahead()
        for row in rows[number : number + 5]:
            ahead.append(looking.next_token(ahead, row))
        for row in rows[number : number + 3]:
            token = sampler.next_token(story, row)
            assert token == plain.next_token(story, row)
            story.append(token)
        assert story == ahead[: len(story)]
