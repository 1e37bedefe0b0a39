"""Stories as answers: server-sent events, JSON, and what happens when nobody listens any more."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import HTTPException, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from tinystories.server.engine import Stream
from tinystories.server.events import Event, Failed, Finished, Piece, Started


DONE = format_sse_event(data_str="[DONE]")
KEEP_ALIVE = format_sse_event(comment="")
SILENCE = 15  # seconds after which a comment keeps proxies from closing the connection


def sse(data: Any, event: str | None = None) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False, allow_nan=False), event=event)


def head_of(stream: Stream) -> dict[str, Any]:
    wish = stream.request.wish
    return {"model": wish.model, "seed": wish.seed, "settings": asdict(wish.settings)}


def ending(stream: Stream, finished: Finished) -> dict[str, Any]:
    """The final object: reason, counts, speed, and what it takes to write the same story again."""
    speed = {"seconds": round(finished.seconds, 3), "tokens_per_second": finished.tokens_per_second}
    return {**asdict(finished), **speed, **head_of(stream)}


async def first_event(request: Request, stream: Stream) -> Started:
    """What the stream begins with, once its turn has come.

    Raises:
        HTTPException: the story cannot be written; the answer has not begun, so its status can say so.
    """
    return succeeded(await unless_gone(request, stream, stream.next()))


async def all_events(request: Request, stream: Stream) -> tuple[list[Piece], Finished]:
    """The pieces of a story and its end; raises as `first_event`."""

    async def collect() -> list[Event]:
        return [event async for event in stream]

    *events, last = await unless_gone(request, stream, collect())
    return [event for event in events if isinstance(event, Piece)], succeeded(last)


def succeeded(event: Event) -> Any:
    """The event itself, unless it is a failure."""
    if isinstance(event, Failed):
        raise failure(event)
    return event


def failure(event: Failed) -> HTTPException:
    body = {"error": event.error, **({"field": event.field} if event.field else {})}
    return HTTPException(event.status, body, {"Retry-After": "5"} if event.status == 503 else None)


async def unless_gone(request: Request, stream: Stream, awaited: Any) -> Any:
    """The result of `awaited`; a client that hangs up before ends the story."""
    work, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise HTTPException(499, {"error": "the client is gone"})  # nobody will read it
    finally:
        if not work.done() or work.cancelled():
            stream.cancel()
        for task in (work, gone):
            task.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def with_keep_alive(stream: Stream) -> AsyncIterator[Event | None]:
    """The events of a stream, and None after a while of silence."""
    while not stream.ended:
        try:
            yield await asyncio.wait_for(stream.next(), SILENCE)
        except TimeoutError:
            yield None


class EventStream(EventSourceResponse):
    """Server-sent events of a story. However the answer ends, so does the story: nobody else listens to it."""

    def __init__(self, stream: Stream, content: AsyncIterator[bytes]):
        super().__init__(content, headers={"X-Accel-Buffering": "no"})  # asks nginx to pass on each piece at once
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stream.cancel()
