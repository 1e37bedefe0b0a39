"""Samples the next token of one story with transformers' logits processors and a random generator of the story's own.

The same seed, prompt and settings give the tokens that `generate` gives after `torch.manual_seed(seed)`, whatever else
is running. The settings of OpenAI's clients that transformers has no processor for are added to the logits here.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


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


UNCHANGED = Adjustments()
STRONGEST_BIAS = 100.0


class CountPenalties(LogitsProcessor):
    """The presence and frequency penalties as OpenAI defines them: by how often a token was sampled so far."""

    def __init__(self, presence: float, frequency: float, prompt_tokens: int):
        self.presence, self.frequency, self.prompt_tokens = presence, frequency, prompt_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row, ids in enumerate(input_ids.tolist()):
            for token, count in Counter(ids[self.prompt_tokens :]).items():
                scores[row, token] -= self.presence + self.frequency * count
        return scores


class LogitBias(LogitsProcessor):
    """Adds to the logits; the strongest values are exact, so that no penalty and no temperature weakens them."""

    def __init__(self, bias: tuple[tuple[int, float], ...]):
        self.bias = bias

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = [token for token, value in self.bias if value >= STRONGEST_BIAS]
        for token, value in self.bias:
            scores[:, token] += -torch.inf if value <= -STRONGEST_BIAS else value
        if forced:
            only = torch.full_like(scores, -torch.inf)
            only[:, forced] = scores[:, forced]
            scores.copy_(only)
        return scores


class Sampler:
    """Draws the tokens of one story, which begins after `prompt_tokens` tokens."""

    def __init__(self, settings: Settings, seed: int, prompt_tokens: int = 0, adjustments: Adjustments = UNCHANGED):
        self.greedy = settings.temperature == 0
        self.generator = torch.Generator().manual_seed(seed)
        processors: list[LogitsProcessor] = []
        if settings.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if adjustments.presence_penalty or adjustments.frequency_penalty:
            penalties = (adjustments.presence_penalty, adjustments.frequency_penalty)
            processors.append(CountPenalties(*penalties, prompt_tokens))
        if adjustments.logit_bias:
            processors.append(LogitBias(adjustments.logit_bias))
        if not self.greedy and settings.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(settings.temperature)))
        if not self.greedy and settings.top_k:
            processors.append(TopKLogitsWarper(settings.top_k))
        if not self.greedy and settings.top_p < 1:
            processors.append(TopPLogitsWarper(float(settings.top_p)))
        if not self.greedy and adjustments.min_p:
            processors.append(MinPLogitsWarper(float(adjustments.min_p)))
        self.processors = LogitsProcessorList(processors)

    def next_token(self, ids: list[int], logits: np.ndarray) -> int:
        """ids: the story so far, its prompt included; logits: (vocabulary,) float32."""
        scores = self.processors(torch.LongTensor([ids]), torch.from_numpy(logits[None].copy()))
        if self.greedy:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))
