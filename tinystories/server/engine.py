"""One thread owns the models; requests come in from the web server's event loop and stories go back to it.

At every turn the thread lets waiting requests join, writes one token of every story, and hands what was written to the
event loop in one go. A story that nobody wants any more leaves before the next token.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

import torch

from tinystories.errors import UserError, one_line
from tinystories.server.continuous_batching import GIVEN_UP, ContinuousBatcher, QueuedRequest
from tinystories.server.events import Event, Failed, Finished, GenerationRequest
from tinystories.server.fair_queue import FairQueue
from tinystories.server.model_pool import ModelPool


logger = logging.getLogger(__name__)

GONE = "the client is gone"
TOO_LATE = "no turn came up in time: try again later"

LOADING, READY, STOPPING, FAILED = "loading", "ready", "stopping", "failed"
REASONS = {
    LOADING: "the model is being loaded",
    STOPPING: "the server is stopping",
    FAILED: "the model cannot be served",
}


class Refused(Exception):
    """A request that cannot be taken now: the queue is full (429) or there is no model at work (503)."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """running: stories written at once; waiting: requests in the queue; seconds: for one story, its wait included;
    shutdown_grace: seconds that running stories still get when the server is stopped."""

    running: int
    waiting: int
    seconds: float
    shutdown_grace: float


def log_ending(wish: GenerationRequest, event: Finished | Failed) -> None:
    """One line without a word of the story."""
    if isinstance(event, Failed):
        logger.info("story not written: %s", event.error)
        return
    counts = f"{event.prompt_tokens} + {event.new_tokens} tokens, {event.tokens_per_second} tokens/s"
    logger.info("story: %s, %s, %s, seed %d", wish.model, counts, event.finish_reason, wish.seed)


class Stream:
    """A story as the event loop sees it: an asynchronous iterator of events, the last being Finished or Failed."""

    def __init__(self, engine: "Engine", wish: GenerationRequest, deadline: float):
        self.engine = engine
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.request = QueuedRequest(wish, self._told, deadline)
        self.ended = False

    def _told(self, event: Event) -> None:
        self.engine.outbox.append((self.events, event))
        if isinstance(event, (Finished, Failed)):
            self._noted(event)

    def _noted(self, event: Finished | Failed) -> None:
        try:
            self.engine.note(self.request.wish, event)
        except Exception:  # bookkeeping is no reason to lose a story
            logger.exception("an ending was not noted")

    async def next(self) -> Event:
        event = await self.events.get()
        self.ended = isinstance(event, (Finished, Failed))
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        while not self.ended:
            yield await self.next()

    def cancel(self) -> None:
        """Nobody listens any more; no-op for a story that has ended."""
        if not self.ended:
            self.engine.cancel(self.request)


class Engine:
    """`note` is told how each story ended, in the engine's thread."""

    def __init__(
        self,
        pool: ModelPool,
        limits: Limits,
        threads: int = 1,
        note: Callable[[GenerationRequest, Finished | Failed], None] = log_ending,
    ):
        self.pool, self.limits, self.threads, self.note = pool, limits, threads, note
        self.state, self.failure = LOADING, None
        self.running = 0  # stories, as of the last token
        self._waiting: FairQueue[QueuedRequest] = FairQueue(limits.waiting)
        self._changed = threading.Condition()
        self.outbox: list[tuple[asyncio.Queue, Event]] = []  # what was written and not yet handed over
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._end = float("inf")  # monotonic; when a stopping server ends what is still running

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """No new story; those that run have `shutdown_grace` seconds. Saying it again changes nothing."""
        with self._changed:
            if self.state != STOPPING:
                self.state, self._end = STOPPING, time.monotonic() + self.limits.shutdown_grace
            self._changed.notify()

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._waiting)

    def submit(self, client: str, wish: GenerationRequest) -> Stream:
        """Called on the event loop.

        Raises:
            Refused: the queue is full, or no model is at work.
        """
        stream = Stream(self, wish, time.monotonic() + self.limits.seconds)
        with self._changed:
            if self.state != READY:
                raise Refused(503, REASONS[self.state])
            if not self._waiting.put(client, stream.request):
                raise Refused(429, f"{self.limits.waiting} requests are waiting already: try again in a moment")
            self._changed.notify()
        return stream

    def cancel(self, request: QueuedRequest) -> None:
        with self._changed:
            request.cancelled = True
            self._changed.notify()

    def _work(self) -> None:
        try:
            torch.set_num_threads(self.threads)  # counts for the thread that says it
            self.pool.batcher(self.pool.default)
            with self._changed:
                self.state = READY if self.state == LOADING else self.state
            while self._turn():
                pass
        except Exception as error:  # the thread must not die in silence: the server ends, and says why
            self.failure = error
        with self._changed:
            self.state = STOPPING if self.failure is None else FAILED
            left, self._waiting = [*self._running(), *self._waiting], FairQueue(0)
        for request in left:
            request.tell(Failed(REASONS[self.state], 503))
        self._send()

    def _turn(self) -> bool:
        """One token of every story. False once the server has stopped and nothing is left to write."""
        with self._changed:
            unwanted = self._take_the_unwanted()
            idle = not (self._running() or self._waiting or unwanted)
            if idle and self.state == STOPPING:
                return False
            if idle:
                self._changed.wait_for(lambda: self._waiting or self.state == STOPPING)
        for request, reason in unwanted:  # not under the lock: whoever is told may take time
            request.tell(Failed(reason, 503))
        while len(self._running()) < self.limits.running and self._join_next():
            pass
        for batcher in list(self.pool.batchers.values()):
            self._try(batcher, batcher.step)
        self.running = len(self._running())
        self._send()
        return True

    def _running(self) -> list[QueuedRequest]:
        return [story.request for batcher in self.pool.batchers.values() for story in batcher.stories]

    def _take_the_unwanted(self) -> list[tuple[QueuedRequest, str]]:
        """Waiting requests that will not be written, out of the queue; running ones are ended by their batcher."""
        now, stopping = time.monotonic(), self.state == STOPPING
        if now > self._end:
            for request in self._running():
                request.cancelled = True
        unwanted = [each for each in self._waiting if stopping or each.cancelled or now > each.deadline]
        for request in unwanted:
            self._waiting.remove(request)
        reason = REASONS[STOPPING] if stopping else TOO_LATE
        return [(request, GONE if request.cancelled else reason) for request in unwanted]

    def _join_next(self) -> bool:
        """Begin the story of the next client whose model is open or can be; False if there is none."""
        with self._changed:
            request = self._waiting.take(lambda each: self.pool.has_room_for(each.wish.model))
        if request is None:
            return False
        try:
            batcher = self.pool.batcher(request.wish.model)
        except Exception as error:
            logger.warning("%s", one_line(error), exc_info=not isinstance(error, UserError))
            request.tell(Failed(f"the model {request.wish.model} cannot be opened", 503))
        else:
            self._try(batcher, partial(batcher.join, request), request)
        return True

    def _try(self, batcher: ContinuousBatcher, work: Callable[[], None], joining: QueuedRequest | None = None) -> None:
        """Whatever fails here (memory, above all), the stories of this model end, and the server goes on."""
        try:
            work()
        except Exception as error:
            logger.exception("stories had to be given up: %s", one_line(error))
            requests = [story.request for story in batcher.stories]
            for request in requests if joining is None or joining in requests else [joining, *requests]:
                request.tell(Failed(GIVEN_UP, 500))
            batcher.clear()

    def _send(self) -> None:
        """Hand over what was written, in one call for all stories."""
        outbox, self.outbox = self.outbox, []
        if outbox and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, outbox)


def _deliver(outbox: list[tuple[asyncio.Queue, Event]]) -> None:
    for events, event in outbox:
        events.put_nowait(event)
