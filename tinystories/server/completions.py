"""OpenAI's legacy completions over the same engine, so that the clients there are can ask for stories.

What this server has no use for (n, best_of, suffix, penalties, logit_bias) may be sent with its neutral value, and is
refused with any other: a setting that has no effect would be a silent mistake.
"""

import math
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from tinystories.server.admission import AdmissionController
from tinystories.server.engine import Stream
from tinystories.server.events import Failed, Finished, GenerationRequest, Piece
from tinystories.server.sampling import Settings
from tinystories.server.schema import BOUNDS as GENERATE_BOUNDS
from tinystories.server.schema import LONGEST_PROMPT, MOST_TOKENS, RepetitionPenalty, Seed, TopK, responses
from tinystories.server.streaming import (
    DONE,
    KEEP_ALIVE,
    EventStream,
    all_events,
    first_event,
    sse,
    succeeded,
    with_keep_alive,
)
from tinystories.server.text import EMPTY_PROMPT, sanitised


NEUTRAL = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
LEAST_TEMPERATURE = 0.01  # below, nothing but the likeliest token is left, and dividing by it ends in no number
BOUNDS = {**GENERATE_BOUNDS, "temperature": (0, 2), "top_p": (0, 1), "logprobs": (0, 5), "stop": (1, 100)}
Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]
SMALLEST = 5e-324  # a probability that rounds to 0 has a logarithm all the same
UNFINISHED = {"timeout": (504, "the story took too long"), "cancelled": (503, "the server is stopping")}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class Completion(BaseModel):
    """The body of POST /v1/completions; top_k and repetition_penalty are this server's own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = 16
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = 1.0
    top_k: TopK = 0
    repetition_penalty: RepetitionPenalty = 1.0
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None


class Answer(BaseModel):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]


class OpenAIError(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    error: OpenAIError


def add_routes(app: FastAPI, admission: AdmissionController) -> None:
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        common = {"object": "model", "created": started, "owned_by": "tinystories"}
        return {"object": "list", "data": [{"id": name, **common} for name in admission.engine.pool.entries]}

    @app.post("/v1/completions", responses=responses(AdmissionController.REFUSALS, Answer, OpenAIProblem))
    async def complete(ask: Completion, request: Request) -> Response:
        """A story, as OpenAI's clients ask for it."""
        stream = admission.take(request, wish_of(ask, admission))
        head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        head["model"] = stream.request.wish.model
        if ask.stream:
            await first_event(request, stream)
            return EventStream(stream, chunks(stream, head, ask))
        pieces, finished = await all_events(request, stream)
        check_ending(finished)
        choice = choice_of(finished.text, finished.finish_reason, logprobs_of(pieces, ask.logprobs))
        return JSONResponse({**head, "choices": [choice], "usage": usage(finished)})


def wish_of(ask: Completion, admission: AdmissionController) -> GenerationRequest:
    for name, neutral in NEUTRAL.items():
        if getattr(ask, name) not in (None, *neutral):
            raise HTTPException(422, {"error": f"{name}: this server knows no value but {neutral[0]!r}", "field": name})
    prompt = sanitised(ask.prompt if isinstance(ask.prompt, str) else ask.prompt[0])
    if not prompt.strip():
        raise HTTPException(400, EMPTY_PROMPT)
    temperature = 1.0 if ask.temperature is None else ask.temperature
    if 0 < temperature < LEAST_TEMPERATURE:
        words = f"temperature: must be 0, for the likeliest token always, or at least {LEAST_TEMPERATURE}"
        raise HTTPException(422, {"error": words, "field": "temperature"})
    settings = Settings(temperature, ask.top_k, ask.top_p or 1.0, ask.repetition_penalty)
    stop = (ask.stop,) if isinstance(ask.stop, str) else tuple(ask.stop or ())
    seed = {} if ask.seed is None else {"seed": ask.seed}
    # the chosen token is told even where no alternatives are asked for
    alternatives = 0 if ask.logprobs is None else max(1, ask.logprobs)
    model, max_tokens = admission.model_named(ask.model), ask.max_tokens or 16
    return GenerationRequest(model, prompt, settings, max_tokens, alternatives=alternatives, stop=stop, **seed)


def check_ending(event: Finished | Failed) -> None:
    """A story that was not finished is an error here: OpenAI's protocol has no word for it but `stop` and `length`."""
    finished = succeeded(event)
    if finished.finish_reason in UNFINISHED:
        status, words = UNFINISHED[finished.finish_reason]
        raise HTTPException(status, {"error": words}, {"Retry-After": "5"} if status == 503 else None)


async def chunks(stream: Stream, head: dict[str, Any], ask: Completion) -> AsyncIterator[bytes]:
    offset = 0
    async for event in with_keep_alive(stream):
        if event is None:
            yield KEEP_ALIVE
        elif isinstance(event, Piece):
            yield sse({**head, "choices": [choice_of(event.text, None, logprobs_of([event], ask.logprobs, offset))]})
            offset += len(event.text)
        else:
            yield last_chunks(event, head, ask)


def last_chunks(event: Finished | Failed, head: dict[str, Any], ask: Completion) -> bytes:
    try:
        check_ending(event)
    except HTTPException as error:
        return sse(error_body(error.status_code, error.detail))
    body = sse({**head, "choices": [choice_of("", event.finish_reason, None)]})
    if ask.stream_options and ask.stream_options.include_usage:
        body += sse({**head, "choices": [], "usage": usage(event)})
    return body + DONE


def choice_of(text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}


def logprobs_of(pieces: list[Piece], number: int | None, offset: int = 0) -> dict[str, Any] | None:
    """None where none were asked for. A piece of several tokens has one logprob, and its first token's alternatives."""
    if number is None:
        return None
    return {
        "tokens": [piece.text for piece in pieces],
        "token_logprobs": [piece.logprob for piece in pieces],
        "top_logprobs": [top_logprobs(piece) for piece in pieces] if number else None,
        "text_offset": [offset + sum(len(piece.text) for piece in pieces[:i]) for i in range(len(pieces))],
    }


def top_logprobs(piece: Piece) -> dict[str, float]:
    """The alternatives by their text, the likeliest of one text, and the piece itself in any case."""
    found: dict[str, float] = {}
    for each in piece.alternatives:
        found.setdefault(each.text, math.log(max(each.probability, SMALLEST)))
    found.setdefault(piece.text, piece.logprob)
    return found


def usage(finished: Finished) -> dict[str, int]:
    prompt, new = finished.prompt_tokens, finished.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def error_body(status: int, body: dict[str, Any]) -> dict[str, Any]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": body["error"], "type": kind, "param": body.get("field"), "code": None}}
