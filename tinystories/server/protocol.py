"""The HTTP protocol of the server: connections that stay busy with nothing are closed."""

import asyncio
import json
import math

from uvicorn.protocols.http.h11_impl import H11Protocol

from tinystories.server.middleware import HEADERS, REQUEST_TIMEOUT


class TimeoutProtocol(H11Protocol):
    """uvicorn's protocol, but for clients that keep a connection busy with nothing: those that send no request, or send
    one letter by letter, that do not read what they asked for, or that open one connection after the other.

    most_of_one_client: connections; None behind a proxy, which is one client for all.
    """

    def __init__(
        self, *args, request_timeout: float = REQUEST_TIMEOUT, most_of_one_client: int | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.request_timeout, self.most_of_one_client = request_timeout, most_of_one_client
        self.timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        of_this_client = sum(other.client and other.client[0] == self.client[0] for other in self.connections)
        if len(self.connections) > (self.limit_concurrency or math.inf):
            self._turn_away("too many connections")
        elif of_this_client > (self.most_of_one_client or math.inf):
            self._turn_away("too many connections from one address")
        else:
            self._start("request")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            if "request" not in self.timers:
                self._start("request")
            return
        self._stop("request")
        if self.conn.trailing_data[0]:  # a second request before the first is answered: uvicorn would read no more,
            self.transport.abort()  # and not notice that the client leaves

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("reading")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("reading")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in self.timers.values():
            timer.cancel()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(raw_answer("400 Bad Request", "this is not an HTTP request"))
        self.transport.close()

    def _turn_away(self, reason: str) -> None:
        self.transport.write(raw_answer("503 Service Unavailable", reason))
        self.transport.close()

    def _start(self, what: str) -> None:
        self.timers[what] = self.loop.call_later(self.request_timeout, self.transport.abort)

    def _stop(self, what: str) -> None:
        if timer := self.timers.pop(what, None):
            timer.cancel()


def raw_answer(status: str, reason: str) -> bytes:
    """A whole answer, for where no application is at hand to make one."""
    body = json.dumps({"error": reason})
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "Retry-After: 5"]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", body]).encode()
