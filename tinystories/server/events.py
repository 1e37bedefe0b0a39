"""What passes between the routes and the engine: a request for a story, and the events of its generation."""

import dataclasses
import math
import secrets
from dataclasses import dataclass

from tinystories.server.sampling import Settings


LARGEST_SEED = 2**53 - 1  # the largest integer that is exact in JavaScript


def random_seed() -> int:
    return secrets.randbelow(LARGEST_SEED)


@dataclass(frozen=True)
class GenerationRequest:
    """One story to generate. The batcher clamps max_tokens to what fits the context, and reports that in `Started`.

    alternatives: how many of the likeliest tokens to report with each piece; 0: none, and no logprobs either.
    stop: sequences that end the story before they appear in it.
    """

    model: str
    prompt: str
    settings: Settings
    max_tokens: int
    seed: int = dataclasses.field(default_factory=random_seed)
    alternatives: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    """The prompt was accepted. max_tokens: of the new text, clamped to the context."""

    prompt_tokens: int
    max_tokens: int
    clamped: bool


@dataclass(frozen=True)
class Alternative:
    """A token the model could have continued with; end: it would have ended the story."""

    text: str
    probability: float
    end: bool = False


@dataclass(frozen=True)
class Piece:
    """Complete UTF-8 text of `tokens` tokens. logprob (nats, summed over the tokens) and alternatives (to the first
    token) are the model's own, before the sampling settings; None and empty unless requested."""

    text: str
    tokens: int
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def probability(self) -> float | None:
        return None if self.logprob is None else math.exp(self.logprob)


@dataclass(frozen=True)
class Finished:
    """finish_reason: stop, length, timeout or cancelled; text: all pieces; new_tokens: without the token that ends the
    story; seconds: from the prompt to the last token."""

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
    """error: one line for the client; status: of HTTP; field: of the request, where one is at fault."""

    error: str
    status: int
    field: str | None = None


Event = Started | Piece | Finished | Failed
