"""The HTTP protocol of the server: closes connections that are held open without being used, refuses requests that are
costly or ambiguous to read."""

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tinystories.server.arguments import REQUEST_TIMEOUT
from tinystories.server.middleware import HEADERS, LARGEST_HEADERS, RETRY_LATER
from tinystories.server.schema import openai_error


MOST_CHUNKS = 1024  # of one body; each takes as long to read as hundreds of bytes
NOT_HTTP = "400 Bad Request", "this is not an HTTP request"
REFUSALS = {  # by the status that h11 suggests
    413: ("413 Content Too Large", f"the body has more than {MOST_CHUNKS} chunks"),
    431: ("431 Request Header Fields Too Large", f"the headers are larger than {LARGEST_HEADERS} bytes"),
}


class StrictConnection(h11.Connection):
    """Reads requests. Raises for a body in very many chunks, and for one whose length is given in two ways: a proxy in
    front might take the other one, and see another request than this server. `refusal`: status and reason."""

    chunks = 0
    refusal = NOT_HTTP

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self.chunks = 0
                names = {name for name, _ in event.headers}
                if {b"content-length", b"transfer-encoding"} <= names:
                    raise h11.RemoteProtocolError("the body has two lengths")
            elif isinstance(event, h11.Data):
                self.chunks += event.chunk_start
                if self.chunks > MOST_CHUNKS:
                    raise h11.RemoteProtocolError("too many chunks", error_status_hint=413)
        except h11.RemoteProtocolError as error:
            self.refusal = REFUSALS.get(error.error_status_hint, NOT_HTTP)
            raise
        return event


class TimeoutProtocol(H11Protocol):
    """uvicorn's protocol, plus limits for clients that hold connections without using them: no request in time, a
    request sent byte by byte, an answer that is never read, or many connections from one address; and for those that
    make reading a request costly.

    max_per_client: connections from one address; None behind a proxy, where all clients have the proxy's address.
    """

    conn: StrictConnection

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
        self.conn = StrictConnection(h11.SERVER, LARGEST_HEADERS)
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
        for start in range(0, len(data), LARGEST_HEADERS):  # so that headers without an end are not read to their end
            super().data_received(data[start : start + LARGEST_HEADERS])
            if self.transport.is_closing():
                return
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
        """Refuse what cannot be read, unless an answer has begun."""
        in_body = self.cycle is not None and not self.cycle.response_complete
        if not (in_body and self.cycle.response_started):
            status, reason = self.conn.refusal
            self.transport.write(raw_answer(status, reason, path=self.scope["path"] if in_body else ""))
        self.transport.close()

    def _reject(self, reason: str) -> None:
        self.transport.write(raw_answer("503 Service Unavailable", reason, RETRY_LATER))
        self.transport.close()

    def _start(self, what: str) -> None:
        self.timers[what] = self.loop.call_later(self.request_timeout, self.transport.abort)

    def _stop(self, what: str) -> None:
        if timer := self.timers.pop(what, None):
            timer.cancel()


def raw_answer(status: str, reason: str, headers: Mapping[str, str] | None = None, path: str = "") -> bytes:
    """A complete HTTP answer, for errors that occur before the application is called. path: of the request, if it is
    known."""
    error: dict[str, Any] = {"error": reason}
    body = json.dumps(openai_error(int(status[:3]), error) if path.startswith("/v1/") else error)
    lines = [f"{name}: {value}" for name, value in (HEADERS | dict(headers or {})).items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", body]).encode()
