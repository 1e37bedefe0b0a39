"""What OpenAI's completions and chat completions have in common over this engine: settings, logprobs, errors, models.

A setting that this server does not have is accepted with the value that changes nothing, and refused with any other: a
setting without effect would be a silent error.
"""

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinystories.generation.sampler import STRONGEST_BIAS, Adjustments, Settings
from tinystories.server.admission import AdmissionController
from tinystories.server.events import LARGEST_SEED, Finished, GenerationRequest, Piece, ScoredToken, random_seed
from tinystories.server.middleware import RETRY_LATER
from tinystories.server.schema import BOUNDS as GENERATE_BOUNDS
from tinystories.server.schema import MOST_TOKENS, RepetitionPenalty, Seed, TopK, error_detail, openai_error
from tinystories.server.streaming import CompleteStory, sse


OF_OLLAMA = re.compile(r"/api/(tags|chat|generate|show|ps|version|embed|embeddings)")
ROUTES = ("GET /v1/models", "POST /v1/completions", "POST /v1/chat/completions")
LEAST_TEMPERATURE = 0.01  # below, only the likeliest token is left, and the division overflows
MOST_CHOICES = 128
MOST_BIASES = 300
BOUNDS = {
    **GENERATE_BOUNDS,
    "max_tokens": (0, MOST_TOKENS),
    "max_completion_tokens": (0, MOST_TOKENS),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "logit_bias": (-STRONGEST_BIAS, STRONGEST_BIAS),
    "n": (1, MOST_CHOICES),
    "best_of": (1, MOST_CHOICES),
    "logprobs": (0, 5),
    "top_logprobs": (0, 20),
    "stop": (1, 100),
}
UNFINISHED = {"timeout": (504, "the story took too long"), "cancelled": (503, "the server is stopping")}

Number = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]
TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[Number, Field(ge=-STRONGEST_BIAS, le=STRONGEST_BIAS)]
Choices = Annotated[int, Field(ge=1, le=MOST_CHOICES)]


class OpenAIBody(BaseModel):
    """An object in a request. A field that this server does not have is left out where it is null or an empty list:
    clients write null for what is not set, and lists of no tools and no files."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def without_empty_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if name in cls.model_fields or value not in (None, [])}


class StreamOptions(OpenAIBody):
    include_usage: bool | None = False
    """A last event with the counts of tokens."""
    include_obfuscation: bool | None = False
    """Changes nothing: no event is padded."""


class SamplingBody(OpenAIBody):
    """The settings of both routes. top_k, min_p and repetition_penalty are not OpenAI's."""

    model: str
    """An id of GET /v1/models."""
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = 1.0
    """Higher: more surprising words. 0: always the likeliest token."""
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = 1.0
    """Choose among the likeliest tokens that add up to this probability."""
    top_k: TopK | None = 0
    """Choose among this many of the likeliest tokens; 0: all. Not OpenAI's."""
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = 0.0
    """Leave out tokens below this share of the likeliest one's probability. Not OpenAI's."""
    repetition_penalty: RepetitionPenalty | None = 1.0
    """Makes tokens that are in the text less likely; 1: none. Not OpenAI's."""
    presence_penalty: Penalty | None = 0.0
    """Taken from the logits of tokens that are in the new text."""
    frequency_penalty: Penalty | None = 0.0
    """Taken from the logits of tokens as often as they are in the new text."""
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MOST_BIASES)] | None = None
    """Token id to a number added to its logit; -100 excludes it, 100 excludes all others."""
    seed: Seed | None = None
    """The same seed, the same story. Default: random."""
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    """Texts that end the story, which they are no part of."""
    n: Choices | None = 1
    """Stories of each prompt; each counts as one."""
    stream: bool | None = False
    """Server-sent events instead of one JSON object."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    user: Any = None
    """A label; changes nothing."""

    def settings(self) -> Settings:
        """Raises:
        HTTPException: 422 for a temperature so low that the division by it overflows.
        """
        temperature = 1.0 if self.temperature is None else self.temperature
        if 0 < temperature < LEAST_TEMPERATURE:
            message = f"temperature: must be 0, for always the likeliest token, or at least {LEAST_TEMPERATURE}"
            raise HTTPException(422, {"error": message, "field": "temperature"})
        return Settings(temperature, self.top_k or 0, self.top_p or 1.0, self.repetition_penalty or 1.0)

    def adjustments(self) -> Adjustments:
        bias = tuple((int(token), value) for token, value in (self.logit_bias or {}).items() if value)
        return Adjustments(self.presence_penalty or 0.0, self.frequency_penalty or 0.0, bias, self.min_p or 0.0)

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class OpenAIError(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(BaseModel):
    error: OpenAIError


def add_models(app: FastAPI, admission: AdmissionController) -> None:
    common = {"object": "model", "created": int(time.time()), "owned_by": "tinystories"}

    @app.get("/v1/models/", include_in_schema=False)  # of clients whose base URL ends in a slash
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that a request can name."""
        return {"object": "list", "data": [{"id": name, **common} for name in admission.engine.pool.entries]}

    unknown: dict[int | str, dict[str, Any]] = {404: {"description": "no such model", "model": OpenAIErrorResponse}}

    @app.get("/v1/models/{name:path}", responses=unknown)  # the id of a model of the Hub has a slash
    async def model(name: str) -> dict[str, Any]:
        """One of these models."""
        if name not in admission.engine.pool.entries:
            message = "model: no model has this name; GET /v1/models lists them"
            raise HTTPException(404, {"error": message, "field": "model", "code": "model_not_found"})
        return {"id": name, **common}


def unknown_route(path: str) -> str:
    """What to tell a client that asks for a route of OpenAI's that is not here, or at another address."""
    if path.startswith("/v1/v1"):
        return "no such route: the address has /v1 twice; the base URL of OpenAI's clients ends in one"
    if path.startswith("/v1"):
        return f"no such route; of OpenAI's, this server has {', '.join(ROUTES)}"
    if f"/v1{path}" in {route.partition(" ")[2] for route in ROUTES}:
        return "no such route; the base URL of OpenAI's clients ends in /v1"
    if OF_OLLAMA.fullmatch(path):
        return "no such route; this server speaks OpenAI's protocol under /v1, not Ollama's"
    return "no such route; GET /docs lists those of this server"


def neutral(values: tuple[Any, ...], reason: str) -> Any:
    """A field that is accepted only with the values that change nothing."""
    accepted = [json.dumps(value) for value in values]
    return Field(default=None, description=f"Only {' or '.join([*accepted, 'null'])}: {reason}.")


def refuse_unsupported(body: BaseModel, neutral: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """neutral: for each field the values that change nothing, besides None, and why it supports no other.

    Raises:
        HTTPException: 422.
    """
    for name, (values, reason) in neutral.items():
        value = getattr(body, name)
        if value is not None and not any(type(value) is type(each) and value == each for each in values):
            raise HTTPException(422, {"error": f"{name}: not supported: {reason}", "field": name})


def story_requests(
    body: SamplingBody,
    prompts: Sequence[str | tuple[int, ...]],
    number: int,
    max_tokens: int,
    admission: AdmissionController,
    *,
    alternatives: int = 0,
    echo: bool = False,
) -> list[GenerationRequest]:
    """`number` stories of each prompt, prompt by prompt. With a seed, the first story of each prompt has that seed, the
    next one the seed after it, and so on: each is the story that its prompt and seed give alone."""
    model, settings, adjustments = admission.resolve_model(body.model), body.settings(), body.adjustments()

    def seed(i: int) -> int:
        return random_seed() if body.seed is None else (body.seed + i) % (LARGEST_SEED + 1)

    return [
        GenerationRequest(
            model, prompt, settings, max_tokens, seed(i), alternatives, body.stops(), echo, adjustments
        )
        for prompt in prompts
        for i in range(number)
    ]  # fmt: skip


def unfinished(finished: Finished) -> HTTPException | None:
    """The error for a story without an end: OpenAI's protocol has no finish reasons but `stop` and `length`."""
    if finished.finish_reason not in UNFINISHED:
        return None
    status, message = UNFINISHED[finished.finish_reason]
    return HTTPException(status, {"error": message}, RETRY_LATER if status == 503 else None)


def refuse_unfinished(stories: Sequence[CompleteStory]) -> None:
    """Raises:
    HTTPException: one of the stories has no end.
    """
    for story in stories:
        if error := unfinished(story.finished):
            raise error


def sse_error(error: HTTPException) -> bytes:
    return sse(openai_error(error.status_code, error_detail(error)))


def head_of_answer(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def usage(finished: Sequence[Finished], per_prompt: int) -> dict[str, int]:
    """Of all stories, those included that best_of dropped; the tokens of each prompt count once.

    per_prompt: stories of one prompt, which follow one another."""
    prompt = sum(story.prompt_tokens for story in finished[::per_prompt])
    new = sum(story.new_tokens for story in finished)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


@dataclass(frozen=True)
class PlacedToken:
    """offset: characters of the text before the token, or before the character that it is part of."""

    scored: ScoredToken
    offset: int


def placed_tokens(pieces: Sequence[Piece], offset: int = 0) -> list[PlacedToken]:
    """The scored tokens of the pieces, the first of which begins at `offset`."""
    found: list[PlacedToken] = []
    for piece in pieces:
        before = b""
        for scored in piece.scored:
            found.append(PlacedToken(scored, offset + min(len(piece.text), len(before.decode(errors="ignore")))))
            before += scored.token.bytes
        offset += len(piece.text)
    return found
