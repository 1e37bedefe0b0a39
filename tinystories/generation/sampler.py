"""Draws the next token of one story: the same tokens as transformers' `generate` draws for the seed, in numpy.

One sampler serves the command line, the server, the evaluation and the samples during training, so that a seed gives
the same story everywhere. transformers' processors take milliseconds on a CPU, since each makes several tensors as long
as the vocabulary; here what one leaves out, the next does not look at.

`torch.multinomial` draws one token as the argmax of probability / noise, where the noise of every token is drawn from an
exponential distribution. That noise is drawn here by the same generator of torch.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Settings:
    """temperature 0: always the likeliest token; top_k 0: from all tokens."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


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


class Sampler:
    """Draws the tokens of one story, which begins after `prompt_tokens` tokens."""

    def __init__(self, settings: Settings, seed: int, prompt_tokens: int = 0, adjustments: Adjustments = UNCHANGED):
        self.settings, self.adjustments, self.prompt_tokens = settings, adjustments, prompt_tokens
        self.greedy = settings.temperature == 0
        self.generator = torch.Generator().manual_seed(seed)
        self._noise = torch.empty(0)
        self._read = 0  # tokens of the story that are in the two below
        self._used: dict[int, None] = {}  # each token of the story once
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
        noise = self._draw(len(scores))
        tokens, scores = self._likeliest(scores / np.float32(self.settings.temperature))
        chances = _softmax(scores)
        if self.settings.top_p < 1:
            tokens, scores, chances = _top_p(tokens, scores, chances, self.settings.top_p)
        if self.adjustments.min_p:
            kept = chances >= np.float32(self.adjustments.min_p) * chances.max()
            tokens, chances = tokens[kept], _softmax(scores[kept])
        return int(tokens[(chances / noise[tokens]).argmax()])

    def _draw(self, vocab_size: int) -> np.ndarray:
        if len(self._noise) != vocab_size:
            self._noise = torch.empty(vocab_size)
        drawn: np.ndarray = self._noise.exponential_(generator=self.generator).numpy()
        return drawn

    def _penalized(self, ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """The logits after penalties and bias; `logits` is not changed."""
        penalty, changes = self.settings.repetition_penalty, self.adjustments
        counted = changes.presence_penalty or changes.frequency_penalty
        if penalty == 1 and changes is UNCHANGED:
            return logits
        for place in range(self._read, len(ids)):
            self._used[ids[place]] = None
            if place >= self.prompt_tokens:
                self._counts[ids[place]] += 1
        self._read = len(ids)
        scores = logits.copy()
        if penalty != 1:
            used = np.fromiter(self._used, np.int64, len(self._used))
            old = scores[used]
            scores[used] = np.where(old < 0, old * np.float32(penalty), old / np.float32(penalty))
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

    def _likeliest(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that top_k leaves, in rising order, and their scores: with equal scores there may be more than k.

        A token with the score -inf is left out, as it has no probability.
        """
        least, number = -np.inf, self.settings.top_k
        if 0 < number < len(scores):
            least = np.partition(scores, len(scores) - number)[len(scores) - number]
        tokens = np.flatnonzero(scores >= least if least > -np.inf else scores > least)
        if not len(tokens) or not np.isfinite(scores.max()):
            raise ValueError("the logits are no numbers, or every token is banned")
        return tokens, scores[tokens]


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    chances: np.ndarray = exponentials / exponentials.sum()
    return chances


def _top_p(
    tokens: np.ndarray, scores: np.ndarray, chances: np.ndarray, top_p: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Without the unlikeliest tokens that hold 1 - top_p together; of equal ones, the first go first. One stays."""
    order = scores.argsort(kind="stable")
    below = chances[order].cumsum(dtype=np.float64).astype(np.float32) <= np.float32(1 - top_p)
    below[-1] = False
    kept = np.sort(order[~below])
    return tokens[kept], scores[kept], _softmax(scores[kept])
