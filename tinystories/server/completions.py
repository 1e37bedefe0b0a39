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

from tinystories.server.answers import DONE, KEEP_ALIVE, EventStream, first_event, sse, unless_gone, with_keep_alive
from tinystories.server.desk import Desk
from tinystories.server.engine import Stream
from tinystories.server.sampling import Settings
from tinystories.server.schema import LONGEST_PROMPT, MOST_TOKENS, RepetitionPenalty, Seed, TopK, responses
from tinystories.server.stories import Failed, Finished, Piece, Wish
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


def add_routes(app: FastAPI, desk: Desk) -> None:
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        common = {"object": "model", "created": started, "owned_by": "tinystories"}
        return {"object": "list", "data": [{"id": name, **common} for name in desk.engine.shelf.entries]}

    @app.post("/v1/completions", responses=responses(Desk.REFUSALS, Answer, OpenAIProblem))
    async def complete(ask: Completion, request: Request) -> Response:
        """A story, as OpenAI's clients ask for it."""
        stream = desk.take(request, wish_of(ask, desk))
        head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        head["model"] = stream.request.wish.model
        if ask.stream:
            await first_event(request, stream)
            return EventStream(stream, chunks(stream, head, ask))
        pieces = await unless_gone(request, stream, all_events(stream))
        finished = pieces.pop()
        check_ending(finished)
        choice = choice_of(finished.text, finished.finish_reason, pieces if ask.logprobs is not None else None)
        return JSONResponse({**head, "choices": [choice], "usage": usage(finished)})


def wish_of(ask: Completion, desk: Desk) -> Wish:
    for name, neutral in NEUTRAL.items():
        if getattr(ask, name) not in (None, *neutral):
            raise HTTPException(422, {"error": f"{name}: this server knows no value but {neutral[0]!r}", "field": name})
    prompt = sanitised(ask.prompt if isinstance(ask.prompt, str) else ask.prompt[0])
    if not prompt.strip():
        raise HTTPException(400, EMPTY_PROMPT)
    temperature = 1.0 if ask.temperature is None else ask.temperature
    settings = Settings(temperature, ask.top_k, ask.top_p or 1.0, ask.repetition_penalty)
    stop = (ask.stop,) if isinstance(ask.stop, str) else tuple(ask.stop or ())
    seed = {} if ask.seed is None else {"seed": ask.seed}
    # the chosen token is told even where no alternatives are asked for
    alternatives = 0 if ask.logprobs is None else max(1, ask.logprobs)
    model, max_tokens = desk.model_named(ask.model), ask.max_tokens or 16
    return Wish(model, prompt, settings, max_tokens, alternatives=alternatives, stop=stop, **seed)


async def all_events(stream: Stream) -> list[Any]:
    """The pieces of a story and its end."""
    return [event async for event in stream if isinstance(event, (Piece, Finished, Failed))]


def check_ending(event: Finished | Failed) -> None:
    """A story that was not finished is an error here: OpenAI's protocol has no word for it but `stop` and `length`."""
    if isinstance(event, Failed):
        raise HTTPException(event.status, {"error": event.error, "field": event.field})
    if event.finish_reason in UNFINISHED:
        status, words = UNFINISHED[event.finish_reason]
        raise HTTPException(status, {"error": words})


async def chunks(stream: Stream, head: dict[str, Any], ask: Completion) -> AsyncIterator[bytes]:
    offset = 0
    async for event in with_keep_alive(stream):
        if event is None:
            yield KEEP_ALIVE
        elif isinstance(event, Piece):
            pieces = [event] if ask.logprobs is not None else None
            yield sse({**head, "choices": [choice_of(event.text, None, pieces, offset)]})
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


def choice_of(text: str, reason: str | None, pieces: list[Piece] | None, offset: int = 0) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs_of(pieces, offset)}


def logprobs_of(pieces: list[Piece] | None, offset: int) -> dict[str, Any] | None:
    if pieces is None:
        return None
    offsets = [offset + sum(len(piece.text) for piece in pieces[:i]) for i in range(len(pieces))]
    return {
        "tokens": [piece.text for piece in pieces],
        "token_logprobs": [piece.logprob for piece in pieces],
        "top_logprobs": [
            {each.text: math.log(max(each.probability, SMALLEST)) for each in piece.alternatives} for piece in pieces
        ],
        "text_offset": offsets,
    }


def usage(finished: Finished) -> dict[str, int]:
    prompt, new = finished.prompt_tokens, finished.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def error_body(status: int, body: dict[str, Any]) -> dict[str, Any]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": body["error"], "type": kind, "param": body.get("field"), "code": None}}
