"""Samples the next token of one story with transformers' logits processors and a random generator of the story's own.

The same seed, prompt and settings give the tokens that `generate` gives after `torch.manual_seed(seed)`, whatever else
is running.
"""

from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
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


class Sampler:
    """Draws the tokens of one story."""

    def __init__(self, settings: Settings, seed: int):
        self.greedy = settings.temperature == 0
        self.generator = torch.Generator().manual_seed(seed)
        processors: list[LogitsProcessor] = []
        if settings.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if not self.greedy and settings.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(settings.temperature)))
        if not self.greedy and settings.top_k:
            processors.append(TopKLogitsWarper(settings.top_k))
        if not self.greedy and settings.top_p < 1:
            processors.append(TopPLogitsWarper(float(settings.top_p)))
        self.processors = LogitsProcessorList(processors)

    def next_token(self, ids: list[int], logits: torch.Tensor) -> int:
        """ids: the story so far, its prompt included; logits: (vocabulary,) float32."""
        scores = self.processors(torch.LongTensor([ids]), logits[None].clone())
        if self.greedy:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))
