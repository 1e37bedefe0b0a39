"""The engine: one thread that owns the models, between the queue of requests and the web server's event loop.

In each step the thread lets waiting stories join and generates one token of every story. It hands all events to the
event loop in one call, at most every hundredth of a second: a screen shows no more. A cancelled story ends before its
next token. A model that a request names first is opened in a thread of its own, while the stories of the others go on.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from tinystories.errors import UserError, one_line
from tinystories.server.active_story import QueuedRequest
from tinystories.server.continuous_batching import GENERATION_FAILED, ContinuousBatcher
from tinystories.server.events import Event, Failed, Finished, GenerationRequest
from tinystories.server.fair_queue import FairQueue
from tinystories.server.model_pool import ModelPool


logger = logging.getLogger(__name__)

Events = asyncio.Queue[tuple[int, Event]]

DISCONNECTED = "the client disconnected"
QUEUE_TIMEOUT = "timed out in the queue: try again later"

SEND_SECONDS = 0.01  # between two calls of the event loop

LOADING, READY, STOPPING, FAILED = "loading", "ready", "stopping", "failed"
REASONS = {
    LOADING: "the model is being loaded",
    STOPPING: "the server is stopping",
    FAILED: "the model cannot be served",
}


class Refused(Exception):
    """A request that is not accepted now. status: 429, the queue or the client's share is full; 503, no model."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """running: stories generated at once; waiting: requests in the queue; seconds: for one story, including its wait;
    shutdown_grace: seconds that running stories still have when the server is stopped; client_share: part of either
    kind of places, from 0 to 1, that one client may have (at least one), so that the others find a place too."""

    running: int
    waiting: int
    seconds: float
    shutdown_grace: float
    client_share: float = 1.0

    @property
    def running_of_client(self) -> int:
        return max(1, int(self.client_share * self.running))

    @property
    def waiting_of_client(self) -> int:
        return max(1, int(self.client_share * self.waiting))


def log_ending(request: GenerationRequest, event: Finished | Failed) -> None:
    """One line, without any text of the prompt or the story."""
    if isinstance(event, Failed):
        logger.info("story failed: %s", event.error)
        return
    counts = f"{event.prompt_tokens} + {event.new_tokens} tokens, {event.tokens_per_second} tokens/s"
    logger.info("story: %s, %s, %s, seed %d", request.model, counts, event.finish_reason, request.seed)


class Stream:
    """The stories of one client's request as seen from the event loop: an asynchronous iterator of (number of the
    story, event). The last event of each story is Finished or Failed."""

    def __init__(self, engine: "Engine", requests: Sequence[GenerationRequest], deadline: float, client: str):
        self.engine, self.requests = engine, tuple(requests)
        self.events: Events = asyncio.Queue()
        self.queued = [
            QueuedRequest(request, partial(self._emit, number), deadline, client)
            for number, request in enumerate(self.requests)
        ]
        self.unfinished = len(self.requests)

    def _emit(self, number: int, event: Event) -> None:
        """Called in the engine's thread."""
        self.engine.outbox.append((self.events, (number, event)))
        if isinstance(event, (Finished, Failed)):
            try:
                self.engine.on_end(self.requests[number], event)
            except Exception:  # an error in logging or metrics must not end a story
                logger.exception("the end of a story was not recorded")

    @property
    def ended(self) -> bool:
        return self.unfinished == 0

    async def next(self) -> tuple[int, Event]:
        number, event = await self.events.get()
        self.unfinished -= isinstance(event, (Finished, Failed))
        return number, event

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        while not self.ended:
            yield await self.next()

    def cancel(self) -> None:
        """End the stories, whose client has disconnected; does nothing after their end."""
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
        self._queue: FairQueue[QueuedRequest] = FairQueue(limits.waiting, limits.waiting_of_client)
        self._opening: str | None = None  # the model that is being opened in another thread
        self._opened: ContinuousBatcher | Exception | None = None  # what came of it
        self._changed = threading.Condition()
        self.outbox: list[tuple[Events, tuple[int, Event]]] = []  # events that the event loop does not have yet
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._opener: threading.Thread | None = None
        self._sent = 0.0  # monotonic; the last call of the event loop
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

    def join(self) -> None:
        """Wait until the stopped engine's threads have ended, but no longer than `shutdown_grace` for each."""
        for thread in (self._thread, self._opener):
            if thread is not None:
                thread.join(self.limits.shutdown_grace)

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._queue)

    def submit(self, client: str, requests: Sequence[GenerationRequest]) -> Stream:
        """Put stories into the queue, all or none; called on the event loop.

        Raises:
            Refused: the queue or the client's share is full, or no model is ready.
        """
        stream = Stream(self, requests, time.monotonic() + self.limits.seconds, client)
        with self._changed:
            if self.state != READY:
                raise Refused(503, REASONS[self.state])
            if len(self._queue) + len(requests) > self.limits.waiting:
                raise Refused(429, f"the queue is full ({self.limits.waiting} requests)")
            if not self._queue.put(client, *stream.queued):
                share = f"{self.limits.waiting_of_client} requests in the queue"
                raise Refused(429, f"one client may have {share}")
            self._changed.notify()
        return stream

    def cancel(self, stories: Sequence[QueuedRequest]) -> None:
        with self._changed:
            for queued in stories:
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
            left, self._queue = [*self._running(), *self._queue], FairQueue(0, 0)
        for queued in left:
            queued.emit(Failed(REASONS[self.state], 503))
        self._send()

    def _step(self) -> bool:
        """One token of every story. Returns False once the server is stopping and nothing is left to generate."""
        with self._changed:
            dropped = self._drop_waiting()
            if not (dropped or self._has_work()):
                if self.state == STOPPING:
                    return False
                first = min((queued.deadline for queued in self._queue), default=math.inf)
                self._changed.wait(None if first == math.inf else max(0.0, first - time.monotonic()) + 0.001)
                return True
        for queued, reason in dropped:  # outside the lock: the receiver may take time
            queued.emit(Failed(reason, 503))
        self._add_opened()
        for _ in range(self.limits.running):  # not more: stories of few tokens would delay the next token of all others
            if not self._join_next():
                break
        self._open_next()
        for batcher in list(self.pool.batchers.values()):
            self._try(batcher, batcher.step)
        self.running = len(self._running())
        if not self.running or time.monotonic() - self._sent >= SEND_SECONDS:
            self._send()
        return True

    def _has_work(self) -> bool:
        if self._running() or self._opened is not None:
            return True
        return any(self._may_start(queued) or self._may_open(queued) for queued in self._queue)

    def _running(self) -> list[QueuedRequest]:
        return [story.queued for batcher in self.pool.batchers.values() for story in batcher.stories]

    def _has_place(self) -> bool:
        return len(self._running()) < self.limits.running

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

    def _may_start(self, queued: QueuedRequest) -> bool:
        """Whether a place is free, and this client has not its share of them already."""
        running = self._running()
        of_client = sum(other.client == queued.client for other in running)
        is_open = queued.request.model in self.pool.batchers
        return is_open and len(running) < self.limits.running and of_client < self.limits.running_of_client

    def _may_open(self, queued: QueuedRequest) -> bool:
        """Whether this request waits for a model that can be opened now. One is opened at a time."""
        model = queued.request.model
        is_free = self._opening is None and model not in self.pool.batchers
        return is_free and self._has_place() and self.pool.has_room_for(model)

    def _join_next(self) -> bool:
        """Start a story of the next client that may start one; False if there is none."""
        with self._changed:
            queued = self._queue.take(self._may_start) if self._has_place() else None
        if queued is None:
            return False
        batcher = self.pool.batcher(queued.request.model)
        self._try(batcher, partial(batcher.join, queued), queued)
        return True

    def _open_next(self) -> None:
        """Begin to open the model of the next request that waits for one."""
        with self._changed:
            waiting = self._queue if self._has_place() else ()
            name = next((queued.request.model for queued in waiting if self._may_open(queued)), None)
        if name is not None:
            self._opening = name
            self.pool.make_room()
            self._opener = threading.Thread(target=self._open, args=(name,), name="opener", daemon=True)
            self._opener.start()

    def _open(self, name: str) -> None:
        """In a thread of its own: the stories of the open models go on."""
        torch.set_num_threads(self.threads)
        found: ContinuousBatcher | Exception
        try:
            found = self.pool.load(name)
        except Exception as error:  # kept for the engine's thread
            found = error
        with self._changed:
            self._opened = found
            self._changed.notify()

    def _add_opened(self) -> None:
        """Take over the model that has been opened, or end the requests for one that cannot be."""
        with self._changed:
            name, found = self._opening, self._opened
            if name is None or found is None:
                return
            self._opening = self._opened = None
            refused = [
                queued for queued in self._queue if queued.request.model == name and isinstance(found, Exception)
            ]
            for queued in refused:
                self._queue.remove(queued)
        if isinstance(found, Exception):
            logger.warning("%s", one_line(found), exc_info=None if isinstance(found, UserError) else found)
        else:
            self.pool.batchers[name] = found
        for queued in refused:
            queued.emit(Failed(f"the model {name} cannot be opened", 503))

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
        outbox, self.outbox, self._sent = self.outbox, [], time.monotonic()
        if outbox and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, outbox)


def _deliver(outbox: list[tuple[Events, tuple[int, Event]]]) -> None:
    for events, event in outbox:
        events.put_nowait(event)
