"""What passes between the routes and the engine: a request for a story, and the events of its generation."""

import dataclasses
import math
import secrets
from dataclasses import dataclass

from tinystories.generation.sampler import UNCHANGED, Adjustments, Settings


LARGEST_SEED = 2**53 - 1  # the largest integer that is exact in JavaScript


def random_seed() -> int:
    return secrets.randbelow(LARGEST_SEED)


@dataclass(frozen=True)
class GenerationRequest:
    """One story to generate. The batcher clamps max_tokens to what fits the context, and reports that in `Started`.

    prompt: text, or token ids. alternatives: how many of the likeliest tokens to report with each token; 0: none, and
    no logprobs either. stop: sequences that end the story before they appear in it. echo: report the prompt too.
    """

    model: str
    prompt: str | tuple[int, ...]
    settings: Settings
    max_tokens: int
    seed: int = dataclasses.field(default_factory=random_seed)
    alternatives: int = 0
    stop: tuple[str, ...] = ()
    echo: bool = False
    adjustments: Adjustments = UNCHANGED


@dataclass(frozen=True)
class Started:
    """The prompt was accepted. max_tokens: of the new text, clamped to the context."""

    prompt_tokens: int
    max_tokens: int
    clamped: bool


@dataclass(frozen=True)
class Token:
    """name: the text of the token, or its bytes in hexadecimal if they are only part of a character; bytes: none for
    a special token; text: as shown to people; end: it ends the story."""

    name: str
    bytes: bytes
    text: str
    end: bool = False


@dataclass(frozen=True)
class Alternative:
    """A token the model could have continued with; logprob: in nats."""

    token: Token
    logprob: float

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text. logprob (nats) and alternatives (likeliest first) are the model's own, before the sampling
    settings; None and empty for a first token that has nothing before it."""

    token: Token
    logprob: float | None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Complete UTF-8 text of `tokens` tokens. scored: these tokens; empty unless requested."""

    text: str
    tokens: int
    scored: tuple[ScoredToken, ...] = ()

    @property
    def probability(self) -> float:
        """Of all its tokens together."""
        return math.exp(sum(token.logprob or 0.0 for token in self.scored))

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """To the first of its tokens."""
        return self.scored[0].alternatives


@dataclass(frozen=True)
class Echo:
    """The text of the prompt, without a BOS that the server itself has put before it."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Finished:
    """finish_reason: stop, length, timeout or cancelled; text: all pieces; new_tokens: without the token that ends the
    story; seconds: from the prompt to the last token; rest: scored tokens without text, the one that ends the story or
    those of an incomplete last character."""

    finish_reason: str
    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    max_tokens: int
    clamped: bool
    rest: tuple[ScoredToken, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        return round(self.new_tokens / self.seconds, 1) if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Failed:
    """error: one line for the client; status: of HTTP; field: of the request, where one is at fault; code: OpenAI's
    name for this error, if it has one."""

    error: str
    status: int
    field: str | None = None
    code: str | None = None


Event = Started | Echo | Piece | Finished | Failed
