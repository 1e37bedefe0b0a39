"""The HTTP protocol of the server: closes connections that are held open without being used."""

import asyncio
import json
import math
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tinystories.server.arguments import REQUEST_TIMEOUT
from tinystories.server.middleware import HEADERS, RETRY_LATER


class TimeoutProtocol(H11Protocol):
    """uvicorn's protocol, plus limits for clients that hold connections without using them: no request in time, a
    request sent byte by byte, an answer that is never read, or many connections from one address.

    max_per_client: connections from one address; None behind a proxy, where all clients have the proxy's address.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        request_timeout: float = REQUEST_TIMEOUT,
        max_per_client: int | None = None,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.request_timeout, self.max_per_client = request_timeout, max_per_client
        self.timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if self.client is None:  # reset before it was accepted: the socket has no peer any more
            self.connections.discard(self)  # now, so that it takes no place from others
            transport.abort()
        elif len(self.connections) > (self.limit_concurrency or math.inf):
            self._reject("too many connections")
        elif self._connections_of_client() > (self.max_per_client or math.inf):
            self._reject("too many connections from one address")
        else:
            self._start("request")

    def _connections_of_client(self) -> int:
        addresses = [other.client[0] for other in self.connections if isinstance(other, H11Protocol) and other.client]
        return addresses.count(self.client[0]) if self.client else 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            if "request" not in self.timers:
                self._start("request")
            return
        self._stop("request")
        if self.conn.trailing_data[0]:  # pipelined: uvicorn would stop reading and not notice a disconnect
            self.transport.abort()

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

    def _reject(self, reason: str) -> None:
        self.transport.write(raw_answer("503 Service Unavailable", reason))
        self.transport.close()

    def _start(self, what: str) -> None:
        self.timers[what] = self.loop.call_later(self.request_timeout, self.transport.abort)

    def _stop(self, what: str) -> None:
        if timer := self.timers.pop(what, None):
            timer.cancel()


def raw_answer(status: str, reason: str) -> bytes:
    """A complete HTTP answer, for errors that occur before the application is called."""
    body = json.dumps({"error": reason})
    lines = [f"{name}: {value}" for name, value in (HEADERS | RETRY_LATER).items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", body]).encode()
