"""Stories as HTTP answers: server-sent events or JSON. A client that disconnects ends its story."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from tinystories.server.engine import Stream
from tinystories.server.events import Event, Failed, Finished, Piece, Started
from tinystories.server.middleware import RETRY_LATER


Kind = TypeVar("Kind", Started, Finished)
Result = TypeVar("Result")

DONE = format_sse_event(data_str="[DONE]")
KEEP_ALIVE = format_sse_event(comment="")
KEEP_ALIVE_SECONDS = 15  # without an event, after which a comment keeps proxies from closing the connection


def sse(data: Any, event: str | None = None) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False, allow_nan=False), event=event)


def head_of(stream: Stream) -> dict[str, Any]:
    request = stream.request
    return {"model": request.model, "seed": request.seed, "settings": asdict(request.settings)}


def final_object(stream: Stream, finished: Finished) -> dict[str, Any]:
    """The last object of a story: finish reason, counts, speed, and what is needed to generate the same story again."""
    speed = {"seconds": round(finished.seconds, 3), "tokens_per_second": finished.tokens_per_second}
    return {**asdict(finished), **speed, **head_of(stream)}


async def first_event(request: Request, stream: Stream) -> Started:
    """The first event, once the story has left the queue.

    Raises:
        HTTPException: the story failed; the answer has not begun, so this is its status.
    """
    return _expect(Started, await unless_disconnected(request, stream, stream.next()))


async def all_events(request: Request, stream: Stream) -> tuple[list[Piece], Finished]:
    """The pieces of a story and its end; raises like `first_event`."""

    async def collect() -> list[Event]:
        return [event async for event in stream]

    *events, last = await unless_disconnected(request, stream, collect())
    return [event for event in events if isinstance(event, Piece)], _expect(Finished, last)


def _expect(kind: type[Kind], event: Event) -> Kind:
    if isinstance(event, Failed):
        raise to_http_error(event)
    if not isinstance(event, kind):
        raise RuntimeError(f"expected {kind.__name__}, got {event}")
    return event


def to_http_error(event: Failed) -> HTTPException:
    body = {"error": event.error, **({"field": event.field} if event.field else {})}
    return HTTPException(event.status, body, RETRY_LATER if event.status == 503 else None)


async def unless_disconnected(request: Request, stream: Stream, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; if the client disconnects before, the story is cancelled."""
    result, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((result, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise HTTPException(499, {"error": "the client disconnected"})  # the client is gone
    finally:
        if not result.done() or result.cancelled():
            stream.cancel()
        result.cancel()
        disconnected.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def with_keep_alive(stream: Stream) -> AsyncIterator[Event | None]:
    """The events of a stream, and None whenever there was none for `KEEP_ALIVE_SECONDS`."""
    while not stream.ended:
        try:
            yield await asyncio.wait_for(stream.next(), KEEP_ALIVE_SECONDS)
        except TimeoutError:
            yield None


class EventStream(EventSourceResponse):
    """Server-sent events of a story. The story is cancelled when the answer ends, however it ends."""

    def __init__(self, stream: Stream, content: AsyncIterator[bytes]):
        super().__init__(content, headers={"X-Accel-Buffering": "no"})  # tells nginx to forward each piece at once
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stream.cancel()
