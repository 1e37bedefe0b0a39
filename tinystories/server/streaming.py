"""Stories as HTTP answers: server-sent events or JSON. A client that disconnects ends its story."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from tinystories.server.engine import Stream
from tinystories.server.events import Echo, Event, Failed, Finished, GenerationRequest, Piece, Started
from tinystories.server.middleware import RETRY_LATER


Result = TypeVar("Result")

DONE = format_sse_event(data_str="[DONE]")
KEEP_ALIVE = format_sse_event(comment="")
KEEP_ALIVE_SECONDS = 15  # without an event, after which a comment keeps proxies from closing the connection


def sse(data: Any, event: str | None = None) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False, allow_nan=False), event=event)


def head_of(request: GenerationRequest) -> dict[str, Any]:
    return {"model": request.model, "seed": request.seed, "settings": asdict(request.settings)}


def final_object(request: GenerationRequest, finished: Finished) -> dict[str, Any]:
    """The last object of a story: finish reason, counts, speed, and what is needed to generate the same story again."""
    found = asdict(finished)
    del found["rest"]
    speed = {"seconds": round(finished.seconds, 3), "tokens_per_second": finished.tokens_per_second}
    return {**found, **speed, **head_of(request)}


async def first_event(request: Request, stream: Stream) -> Started:
    """The first event, once a story has left the queue.

    Raises:
        HTTPException: the story failed; the answer has not begun, so this is its status.
    """
    _, event = await unless_disconnected(request, stream, _next_but_failed(stream))
    if not isinstance(event, Started):
        raise RuntimeError(f"expected Started, got {event}")
    return event


@dataclass(frozen=True)
class CompleteStory:
    """prompt: the pieces of the prompt, if it was to be echoed."""

    prompt: tuple[Piece, ...]
    pieces: tuple[Piece, ...]
    finished: Finished


async def complete_stories(request: Request, stream: Stream) -> list[CompleteStory]:
    """The stories in the order of the requests, once all have ended.

    Raises:
        HTTPException: a story failed, and the others have been cancelled.
    """

    async def collect() -> list[CompleteStory]:
        events: list[list[Event]] = [[] for _ in stream.requests]
        while not stream.ended:
            number, event = await _next_but_failed(stream)
            events[number].append(event)
        return [_complete(story) for story in events]

    return await unless_disconnected(request, stream, collect())


def _complete(events: list[Event]) -> CompleteStory:
    prompt = [piece for event in events if isinstance(event, Echo) for piece in event.pieces]
    pieces = [event for event in events if isinstance(event, Piece)]
    (finished,) = (event for event in events if isinstance(event, Finished))
    return CompleteStory(tuple(prompt), tuple(pieces), finished)


async def _next_but_failed(stream: Stream) -> tuple[int, Event]:
    number, event = await stream.next()
    if isinstance(event, Failed):
        raise to_http_error(event)
    return number, event


def to_http_error(event: Failed) -> HTTPException:
    named = {"field": event.field, "code": event.code}
    body = {"error": event.error, **{name: value for name, value in named.items() if value}}
    return HTTPException(event.status, body, RETRY_LATER if event.status == 503 else None)


async def unless_disconnected(request: Request, stream: Stream, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; if it fails, or the client disconnects before, the stories are cancelled."""
    result, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((result, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise HTTPException(499, {"error": "the client disconnected"})  # the client is gone
    finally:
        if not result.done() or result.cancelled() or result.exception():
            stream.cancel()
        result.cancel()
        disconnected.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def with_keep_alive(stream: Stream) -> AsyncIterator[tuple[int, Event | None]]:
    """(number of the story, event) of a stream, and None whenever there was none for `KEEP_ALIVE_SECONDS`."""
    while not stream.ended:
        found: tuple[int, Event | None] = 0, None
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                found = await stream.next()
        yield found


async def joined(stream: Stream, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`content`, with what is there at once in one piece: to send it costs more than to make it."""
    made: list[bytes] = []
    async for data in content:
        made.append(data)
        if stream.events.empty():
            yield b"".join(made)
            made = []
    if made:
        yield b"".join(made)


class EventStream(EventSourceResponse):
    """Server-sent events of stories, which are cancelled when the answer ends, however it ends."""

    def __init__(self, stream: Stream, content: AsyncIterator[bytes]):
        headers = {"X-Accel-Buffering": "no"}  # tells nginx to forward each piece at once
        super().__init__(joined(stream, content), headers=headers)
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stream.cancel()
