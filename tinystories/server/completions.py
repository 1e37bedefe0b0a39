"""OpenAI's legacy completions over the same engine, so that existing clients can request stories.

Settings that this server does not have (n, best_of, suffix, penalties, logit_bias) are accepted with their neutral
value and refused with any other: a setting without effect would be a silent error.
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
from tinystories.server.events import Failed, Finished, GenerationRequest, Piece, random_seed
from tinystories.server.middleware import RETRY_LATER
from tinystories.server.sampling import Settings
from tinystories.server.schema import BOUNDS as GENERATE_BOUNDS
from tinystories.server.schema import (
    LONGEST_PROMPT,
    MOST_TOKENS,
    RepetitionPenalty,
    Seed,
    TopK,
    error_detail,
    openai_error,
    responses,
)
from tinystories.server.streaming import (
    DONE,
    KEEP_ALIVE,
    EventStream,
    all_events,
    first_event,
    sse,
    to_http_error,
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
LEAST_TEMPERATURE = 0.01  # below, only the likeliest token is left, and the division overflows
BOUNDS = {**GENERATE_BOUNDS, "temperature": (0, 2), "top_p": (0, 1), "logprobs": (0, 5), "stop": (1, 100)}
Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]
SMALLEST = 5e-324  # stands for a probability that was rounded to 0, which has no logarithm
UNFINISHED = {"timeout": (504, "the story took too long"), "cancelled": (503, "the server is stopping")}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class CompletionBody(BaseModel):
    """The body of POST /v1/completions. top_k and repetition_penalty are not OpenAI's."""

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


class CompletionResponse(BaseModel):
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


class OpenAIErrorResponse(BaseModel):
    error: OpenAIError


def add_routes(app: FastAPI, admission: AdmissionController) -> None:
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        common = {"object": "model", "created": started, "owned_by": "tinystories"}
        return {"object": "list", "data": [{"id": name, **common} for name in admission.engine.pool.entries]}

    documented = responses(AdmissionController.REFUSALS, CompletionResponse, OpenAIErrorResponse)

    @app.post("/v1/completions", responses=documented)
    async def complete(body: CompletionBody, request: Request) -> Response:
        """A story, in the protocol of OpenAI's clients."""
        stream = admission.admit(request, to_generation_request(body, admission))
        head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        head["model"] = stream.request.model
        if body.stream:
            await first_event(request, stream)
            return EventStream(stream, chunks(stream, head, body))
        pieces, finished = await all_events(request, stream)
        if error := unfinished(finished):
            raise error
        choice = choice_of(finished.text, finished.finish_reason, logprobs_of(pieces, body.logprobs))
        return JSONResponse({**head, "choices": [choice], "usage": usage(finished)})


def to_generation_request(body: CompletionBody, admission: AdmissionController) -> GenerationRequest:
    for name, neutral in NEUTRAL.items():
        if getattr(body, name) not in (None, *neutral):
            message = f"{name}: this server supports no value but {neutral[0]!r}"
            raise HTTPException(422, {"error": message, "field": name})
    prompt = sanitised(body.prompt if isinstance(body.prompt, str) else body.prompt[0])
    if not prompt.strip():
        raise HTTPException(400, EMPTY_PROMPT)
    temperature = 1.0 if body.temperature is None else body.temperature
    if 0 < temperature < LEAST_TEMPERATURE:
        message = f"temperature: must be 0, for always the likeliest token, or at least {LEAST_TEMPERATURE}"
        raise HTTPException(422, {"error": message, "field": "temperature"})
    return GenerationRequest(
        admission.resolve_model(body.model),
        prompt,
        Settings(temperature, body.top_k, body.top_p or 1.0, body.repetition_penalty),
        body.max_tokens or 16,
        seed=random_seed() if body.seed is None else body.seed,
        # logprobs 0 asks for the logprob of the chosen token, which is recorded together with the alternatives
        alternatives=0 if body.logprobs is None else max(1, body.logprobs),
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    )


def unfinished(finished: Finished) -> HTTPException | None:
    """The error for a story without an end: OpenAI's protocol has no finish reasons but `stop` and `length`."""
    if finished.finish_reason not in UNFINISHED:
        return None
    status, message = UNFINISHED[finished.finish_reason]
    return HTTPException(status, {"error": message}, RETRY_LATER if status == 503 else None)


async def chunks(stream: Stream, head: dict[str, Any], body: CompletionBody) -> AsyncIterator[bytes]:
    offset = 0
    async for event in with_keep_alive(stream):
        match event:
            case None:
                yield KEEP_ALIVE
            case Piece():
                logprobs = logprobs_of([event], body.logprobs, offset)
                yield sse({**head, "choices": [choice_of(event.text, None, logprobs)]})
                offset += len(event.text)
            case Failed():
                yield sse_error(to_http_error(event))
            case Finished():
                yield last_chunks(event, head, body)


def sse_error(error: HTTPException) -> bytes:
    return sse(openai_error(error.status_code, error_detail(error)))


def last_chunks(finished: Finished, head: dict[str, Any], body: CompletionBody) -> bytes:
    if error := unfinished(finished):
        return sse_error(error)
    found = sse({**head, "choices": [choice_of("", finished.finish_reason, None)]})
    if body.stream_options and body.stream_options.include_usage:
        found += sse({**head, "choices": [], "usage": usage(finished)})
    return found + DONE


def choice_of(text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}


def logprobs_of(pieces: list[Piece], number: int | None, offset: int = 0) -> dict[str, Any] | None:
    """None if not requested. A piece of several tokens has their summed logprob and its first token's alternatives."""
    if number is None:
        return None
    return {
        "tokens": [piece.text for piece in pieces],
        "token_logprobs": [piece.logprob for piece in pieces],
        "top_logprobs": [top_logprobs(piece) for piece in pieces] if number else None,
        "text_offset": [offset + sum(len(piece.text) for piece in pieces[:i]) for i in range(len(pieces))],
    }


def top_logprobs(piece: Piece) -> dict[str, float]:
    """The logprobs of the alternatives by text (the highest where texts are equal), and of the piece itself."""
    found: dict[str, float] = {}
    for each in piece.alternatives:
        found.setdefault(each.text, math.log(max(each.probability, SMALLEST)))
    if piece.logprob is not None:
        found.setdefault(piece.text, piece.logprob)
    return found


def usage(finished: Finished) -> dict[str, int]:
    prompt, new = finished.prompt_tokens, finished.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
