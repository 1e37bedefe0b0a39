"""The next token of one story: transformers' own logits processors and a random generator that no one else draws from.

With the same seed, prompt and settings it draws what `generate` draws after `torch.manual_seed(seed)`, whatever is
running beside.
"""

from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Settings:
    """How to sample; temperature 0: always the likeliest token; top_k 0: from all tokens."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


class Sampler:
    def __init__(self, settings: Settings, seed: int):
        self.greedy = settings.temperature == 0
        self.generator = torch.Generator().manual_seed(seed)
        processors = []
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
        scores = self.processors(torch.tensor([ids]), logits[None].clone())
        if self.greedy:
            return scores.argmax(-1).item()
        return torch.multinomial(scores.softmax(-1), 1, generator=self.generator).item()
