"""A story on its way through the server: what was asked, and what is told while it is written."""

import dataclasses
import math
import secrets
from dataclasses import dataclass

from tinystories.server.sampling import Settings


LARGEST_SEED = 2**53 - 1  # what a page's numbers hold exactly


@dataclass(frozen=True)
class GenerationRequest:
    """One request. max_tokens may be more than fits: the batcher clamps it, and says so."""

    model: str
    prompt: str
    settings: Settings
    max_tokens: int
    seed: int = dataclasses.field(default_factory=lambda: secrets.randbelow(LARGEST_SEED))
    alternatives: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    prompt_tokens: int
    max_tokens: int
    clamped: bool


@dataclass(frozen=True)
class Alternative:
    text: str
    probability: float
    end: bool = False


@dataclass(frozen=True)
class Piece:
    """Text that is complete UTF-8, made of `tokens` tokens. logprob (nats) and alternatives are the model's own, before
    the sampling settings; alternatives are to the first token of the piece. Both only where they were asked for."""

    text: str
    tokens: int
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class Finished:
    """finish_reason: stop, length, timeout or cancelled; text: all pieces; new_tokens: all that were written, but for
    the end of the story; seconds: from the reading of the prompt to the last token."""

    finish_reason: str
    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    max_tokens: int
    clamped: bool

    @property
    def tokens_per_second(self) -> float:
        return round(self.new_tokens / self.seconds, 1) if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Failed:
    """error: one line for the person who asked."""

    error: str
    status: int
    field: str | None = None


Event = Started | Piece | Finished | Failed
