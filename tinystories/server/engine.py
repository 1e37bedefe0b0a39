"""The engine: one thread that owns the models, between the queue of requests and the web server's event loop.

In each step the thread lets waiting requests join, generates one token of every story, and hands all events to the
event loop in one call. A cancelled story ends before its next token.
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
from tinystories.server.continuous_batching import GENERATION_FAILED, ContinuousBatcher, QueuedRequest
from tinystories.server.events import Event, Failed, Finished, GenerationRequest
from tinystories.server.fair_queue import FairQueue
from tinystories.server.model_pool import ModelPool


logger = logging.getLogger(__name__)

DISCONNECTED = "the client disconnected"
QUEUE_TIMEOUT = "timed out in the queue: try again later"

LOADING, READY, STOPPING, FAILED = "loading", "ready", "stopping", "failed"
REASONS = {
    LOADING: "the model is being loaded",
    STOPPING: "the server is stopping",
    FAILED: "the model cannot be served",
}


class Refused(Exception):
    """A request that is not accepted now. status: 429, the queue is full; 503, no model is ready."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """running: stories generated at once; waiting: requests in the queue; seconds: for one story, including its wait;
    shutdown_grace: seconds that running stories still have when the server is stopped."""

    running: int
    waiting: int
    seconds: float
    shutdown_grace: float


def log_ending(request: GenerationRequest, event: Finished | Failed) -> None:
    """One line, without any text of the prompt or the story."""
    if isinstance(event, Failed):
        logger.info("story failed: %s", event.error)
        return
    counts = f"{event.prompt_tokens} + {event.new_tokens} tokens, {event.tokens_per_second} tokens/s"
    logger.info("story: %s, %s, %s, seed %d", request.model, counts, event.finish_reason, request.seed)


class Stream:
    """A story as seen from the event loop: an asynchronous iterator of events, the last being Finished or Failed."""

    def __init__(self, engine: "Engine", request: GenerationRequest, deadline: float):
        self.engine, self.request = engine, request
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.queued = QueuedRequest(request, self._emit, deadline)
        self.ended = False

    def _emit(self, event: Event) -> None:
        """Called in the engine's thread."""
        self.engine.outbox.append((self.events, event))
        if isinstance(event, (Finished, Failed)):
            try:
                self.engine.on_end(self.request, event)
            except Exception:  # an error in logging or metrics must not end a story
                logger.exception("the end of a story was not recorded")

    async def next(self) -> Event:
        event = await self.events.get()
        self.ended = isinstance(event, (Finished, Failed))
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        while not self.ended:
            yield await self.next()

    def cancel(self) -> None:
        """End the story, whose client has disconnected; does nothing after its end."""
        if not self.ended:
            self.engine.cancel(self.queued)


class Engine:
    """Owns the models and the queue. `on_end` is called in the engine's thread when a story ends."""

    def __init__(
        self,
        pool: ModelPool,
        limits: Limits,
        threads: int = 1,
        on_end: Callable[[GenerationRequest, Finished | Failed], None] = log_ending,
    ):
        self.pool, self.limits, self.threads, self.on_end = pool, limits, threads, on_end
        self.state = LOADING
        self.failure: Exception | None = None
        self.running = 0  # stories, as of the last step
        self._queue: FairQueue[QueuedRequest] = FairQueue(limits.waiting)
        self._changed = threading.Condition()
        self.outbox: list[tuple[asyncio.Queue[Event], Event]] = []  # events that the event loop does not have yet
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._stop_deadline = float("inf")  # monotonic; when a stopping server cancels the running stories

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Accept no new story; running ones have `shutdown_grace` seconds, counted from the first call."""
        with self._changed:
            if self.state != STOPPING:
                self.state, self._stop_deadline = STOPPING, time.monotonic() + self.limits.shutdown_grace
            self._changed.notify()

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._queue)

    def submit(self, client: str, request: GenerationRequest) -> Stream:
        """Put a request into the queue; called on the event loop.

        Raises:
            Refused: the queue is full, or no model is ready.
        """
        stream = Stream(self, request, time.monotonic() + self.limits.seconds)
        with self._changed:
            if self.state != READY:
                raise Refused(503, REASONS[self.state])
            if not self._queue.put(client, stream.queued):
                raise Refused(429, f"the queue is full ({self.limits.waiting} requests): try again in a moment")
            self._changed.notify()
        return stream

    def cancel(self, queued: QueuedRequest) -> None:
        with self._changed:
            queued.cancelled = True
            self._changed.notify()

    def _work(self) -> None:
        try:
            torch.set_num_threads(self.threads)  # applies to the calling thread
            self.pool.batcher(self.pool.default)
            with self._changed:
                self.state = READY if self.state == LOADING else self.state
            while self._step():
                pass
        except Exception as error:  # kept for the main thread, which ends the server with it
            self.failure = error
        with self._changed:
            self.state = STOPPING if self.failure is None else FAILED
            left, self._queue = [*self._running(), *self._queue], FairQueue(0)
        for queued in left:
            queued.emit(Failed(REASONS[self.state], 503))
        self._send()

    def _step(self) -> bool:
        """One token of every story. Returns False once the server is stopping and nothing is left to generate."""
        with self._changed:
            dropped = self._drop_waiting()
            idle = not (self._running() or self._queue or dropped)
            if idle and self.state == STOPPING:
                return False
            if idle:
                self._changed.wait_for(lambda: self._queue or self.state == STOPPING)
        for queued, reason in dropped:  # outside the lock: the receiver may take time
            queued.emit(Failed(reason, 503))
        while len(self._running()) < self.limits.running and self._join_next():
            pass
        for batcher in list(self.pool.batchers.values()):
            self._try(batcher, batcher.step)
        self.running = len(self._running())
        self._send()
        return True

    def _running(self) -> list[QueuedRequest]:
        return [story.queued for batcher in self.pool.batchers.values() for story in batcher.stories]

    def _drop_waiting(self) -> list[tuple[QueuedRequest, str]]:
        """Remove the requests from the queue that are cancelled or too late, all if the server is stopping; return them
        with the reason. Running stories are ended by their batcher."""
        now, stopping = time.monotonic(), self.state == STOPPING
        if now > self._stop_deadline:
            for queued in self._running():
                queued.cancelled = True
        dropped = [each for each in self._queue if stopping or each.cancelled or now > each.deadline]
        for queued in dropped:
            self._queue.remove(queued)
        reason = REASONS[STOPPING] if stopping else QUEUE_TIMEOUT
        return [(queued, DISCONNECTED if queued.cancelled else reason) for queued in dropped]

    def _join_next(self) -> bool:
        """Start the story of the next client whose model is open or can be opened; False if there is none."""
        with self._changed:
            queued = self._queue.take(lambda each: self.pool.has_room_for(each.request.model))
        if queued is None:
            return False
        try:
            batcher = self.pool.batcher(queued.request.model)
        except Exception as error:
            logger.warning("%s", one_line(error), exc_info=not isinstance(error, UserError))
            queued.emit(Failed(f"the model {queued.request.model} cannot be opened", 503))
        else:
            self._try(batcher, partial(batcher.join, queued), queued)
        return True

    def _try(self, batcher: ContinuousBatcher, work: Callable[[], None], joining: QueuedRequest | None = None) -> None:
        """An error (out of memory, most likely) ends the stories of this model; the server continues."""
        try:
            work()
        except Exception as error:
            logger.exception("the stories of one model failed: %s", one_line(error))
            running = [story.queued for story in batcher.stories]
            for queued in running if joining is None or joining in running else [joining, *running]:
                queued.emit(Failed(GENERATION_FAILED, 500))
            batcher.clear()

    def _send(self) -> None:
        """Hand the events of all stories to the event loop in one call."""
        outbox, self.outbox = self.outbox, []
        if outbox and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, outbox)


def _deliver(outbox: list[tuple[asyncio.Queue[Event], Event]]) -> None:
    for events, event in outbox:
        events.put_nowait(event)
