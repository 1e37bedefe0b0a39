"""Draws the next token of one story: the same tokens as transformers' `generate` draws for the seed, in numpy.

One sampler serves the command line, the server, the evaluation and the samples during training, so that a seed gives
the same story everywhere. transformers' processors each make several tensors as long as the vocabulary; here what one
of them leaves out, the next does not look at.

`torch.multinomial` draws one token as the argmax of probability / noise, where the noise of every token is
exponentially distributed: -log(1 - u), and u are 53 bits of two words of the Mersenne Twister (torch's generator on the
CPU). numpy has the same generator, so that the noise is computed only for tokens that may be drawn.
"""

from collections import Counter, deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from transformers import GenerationConfig

# Fields of a generation config that do not change which token is drawn, or that `Settings.of` reads.
KNOWN = {
    *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "use_cache", "max_new_tokens", "max_length"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"),
}


@dataclass(frozen=True)
class Settings:
    """temperature 0: always the likeliest token; top_k 0: from all tokens."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float

    @classmethod
    def of(cls, config: "GenerationConfig") -> "Settings | None":
        """Those of a generation config; None if it asks for more than a `Sampler` does, such as beams."""
        usual = config._get_default_generation_params()
        given = {name: value for name, value in config.to_dict().items() if value is not None}
        if any(value != usual.get(name) for name, value in given.items() if name not in KNOWN):
            return None
        values = usual | given
        penalty = values["repetition_penalty"]
        if not values["do_sample"]:
            return cls(temperature=0, top_k=0, top_p=1.0, repetition_penalty=penalty)
        return cls(values["temperature"], values["top_k"], values["top_p"], penalty)


@dataclass(frozen=True)
class Adjustments:
    """Changes of the logits and of the choice that only OpenAI's routes offer; the defaults change nothing.

    presence_penalty is subtracted once from the logit of each token that the story already has, frequency_penalty each
    time it has it; the prompt does not count. logit_bias: (token, number added to its logit); -100 bans the token, 100
    allows only tokens with 100. min_p: drop tokens with less than this part of the likeliest token's probability."""

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_p: float = 0.0


GREEDY = Settings(temperature=0, top_k=0, top_p=1.0, repetition_penalty=1.0)
UNCHANGED = Adjustments()
STRONGEST_BIAS = 100.0
GROUP = 16  # scores of which one is looked at first to find the likeliest tokens


class Sampler:
    """Draws the tokens of one story, which begins after `prompt_tokens` tokens."""

    def __init__(self, settings: Settings, seed: int, prompt_tokens: int = 0, adjustments: Adjustments = UNCHANGED):
        self.settings, self.adjustments, self.prompt_tokens = settings, adjustments, prompt_tokens
        self.greedy = settings.temperature == 0
        self._words = _Words(seed)
        self._ahead: int | None = None  # of a copy that looks ahead: tokens drawn so far
        self._read = 0  # tokens of the story that are in the three below
        self._used = np.empty(0, dtype=np.int64)  # each token of the story once
        self._is_used: set[int] = set()
        self._counts: Counter[int] = Counter()  # of the tokens after the prompt
        self._biased = np.array([token for token, _ in adjustments.logit_bias], dtype=np.int64)
        values = [-np.inf if value <= -STRONGEST_BIAS else value for _, value in adjustments.logit_bias]
        self._bias = np.array(values, dtype=np.float32)

    def next_token(self, ids: Sequence[int], logits: np.ndarray) -> int:
        """ids: the story so far, its prompt included, one token longer than before; logits: (vocab_size,) float32.

        Raises:
            ValueError: no token has a probability, because a logit is NaN or all are -inf.
        """
        scores = self._penalized(ids, logits)
        if self.greedy:
            return int(scores.argmax())
        words = self._next_words(len(scores))
        if self.settings.temperature != 1:
            scores = scores / np.float32(self.settings.temperature)
        tokens, scores = self._likeliest(scores)
        if self.settings.top_p < 1:
            tokens, scores = _top_p(tokens, scores, self.settings.top_p)
        chances = _softmax(scores)
        if self.adjustments.min_p:
            kept = chances >= np.float32(self.adjustments.min_p) * chances.max()
            tokens, chances = tokens[kept], _softmax(scores[kept])
        return int(tokens[(chances / _noise(words[tokens])).argmax()])

    def looking_ahead(self) -> "Sampler":
        """A copy that draws its tokens with the random numbers of the tokens that this sampler draws next."""
        other = copy(self)
        other._is_used, other._counts, other._ahead = set(self._is_used), self._counts.copy(), 0
        return other

    def _next_words(self, number: int) -> np.ndarray:
        if self._ahead is None:
            return self._words.take(number)
        self._ahead += 1
        return self._words.look(self._ahead - 1, number)

    def _penalized(self, ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """The logits after penalties and bias; `logits` is not changed."""
        penalty, changes = self.settings.repetition_penalty, self.adjustments
        counted = changes.presence_penalty or changes.frequency_penalty
        if penalty == 1 and changes is UNCHANGED:
            return logits
        self._read_on(ids)
        scores = logits.copy()
        if penalty != 1:
            old = scores[self._used]
            scores[self._used] = np.where(old < 0, old * np.float32(penalty), old / np.float32(penalty))
        if counted and self._counts:
            tokens, times = (np.array(part) for part in zip(*self._counts.items(), strict=True))
            fine = changes.presence_penalty + changes.frequency_penalty * times
            scores[tokens] -= fine.astype(np.float32)
        if len(self._biased):
            np.add.at(scores, self._biased, self._bias)
            if forced := [token for token, value in changes.logit_bias if value >= STRONGEST_BIAS]:
                only = np.full_like(scores, -np.inf)
                only[forced] = scores[forced]
                return only
        return scores

    def _read_on(self, ids: Sequence[int]) -> None:
        new = ids[self._read :]
        self._counts.update(ids[max(self._read, self.prompt_tokens) :])
        self._read = len(ids)
        if first := set(new) - self._is_used:
            self._is_used |= first
            self._used = np.append(self._used, list(first))

    def _likeliest(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that top_k leaves, in rising order, and their scores: with equal scores there may be more than k.

        A token with the score -inf is left out, as it has no probability.
        """
        if not np.isfinite(scores.max()):
            raise ValueError("the logits are no numbers, or every token is banned")
        number = self.settings.top_k
        least = _largest(scores, number) if 0 < number < len(scores) else -np.inf
        tokens = np.flatnonzero(scores >= least if least > -np.inf else scores > least)
        return tokens, scores[tokens]


class _Words:
    """Two random words for each token of the vocabulary, (vocab_size, 2), drawn for each token of a story."""

    def __init__(self, seed: int):
        self._random = np.random.RandomState(seed & 0xFFFFFFFF)  # torch takes the lower half of a seed as well
        self._looked_at: deque[np.ndarray] = deque()

    def take(self, number: int) -> np.ndarray:
        return self._looked_at.popleft() if self._looked_at else self._draw(number)

    def look(self, ahead: int, number: int) -> np.ndarray:
        """Those that `take` will return after `ahead` others."""
        while len(self._looked_at) <= ahead:
            self._looked_at.append(self._draw(number))
        return self._looked_at[ahead]

    def _draw(self, number: int) -> np.ndarray:
        return self._random.randint(0, 1 << 32, size=(number, 2), dtype=np.uint32)


def _largest(scores: np.ndarray, number: int) -> float:
    """The one of which there are `number` as large or larger; no NaN among `scores`.

    Among the largest of each of many groups, that is no more than among all: most scores are left out by it.
    """
    width = len(scores) // GROUP
    if number < width:
        groups = scores[: GROUP * width].reshape(GROUP, width).max(axis=0)
        scores = scores[scores >= np.partition(groups, width - number)[width - number]]
    return float(np.partition(scores, len(scores) - number)[len(scores) - number])


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    chances: np.ndarray = exponentials / exponentials.sum()
    return chances


def _noise(words: np.ndarray) -> np.ndarray:
    """Exponentially distributed numbers, (tokens,), of two words of 32 bits each, (tokens, 2)."""
    bits = ((words[:, 0].astype(np.uint64) & np.uint64(0x1FFFFF)) << np.uint64(32)) | words[:, 1]
    noise: np.ndarray = (-np.log1p(bits * -(2.0**-53))).astype(np.float32)
    return noise


def _top_p(tokens: np.ndarray, scores: np.ndarray, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Without the unlikeliest tokens that hold 1 - top_p together; of equal ones, the first go first. One stays."""
    rising = np.sort(scores)
    below = _softmax(rising).cumsum(dtype=np.float64).astype(np.float32) <= np.float32(1 - top_p)
    dropped = min(int(np.count_nonzero(below)), len(scores) - 1)
    kept = scores >= rising[dropped]
    equal = np.flatnonzero(scores == rising[dropped])
    kept[equal[: np.count_nonzero(kept) - (len(scores) - dropped)]] = False
    return tokens[kept], scores[kept]
