"""What stands between the network and the routes: sizes, times, addresses, rates and headers. Plain ASGI, no route."""

import asyncio
import ipaddress
import json
import math
import time
from collections import deque

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


LARGEST_BODY = 64 * 1024  # bytes; a prompt of 2,048 characters takes 24,576 where each is written as two \\uXXXX
LARGEST_HEADERS = 16 * 1024  # bytes
MINUTE = 60.0  # seconds
PATIENCE = 10.0  # seconds for a request's headers, and for its body
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors "
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY + "'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STRICT_TRANSPORT_SECURITY = "max-age=31536000"


class SecurityHeaders:
    """On every answer, errors too. HSTS only where the request came by TLS; no frame but of the sites that may."""

    def __init__(self, app: ASGIApp, frame_ancestors: str | None = None):
        self.app, self.headers = app, dict(HEADERS)
        if frame_ancestors:
            self.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY + frame_ancestors
            del self.headers["X-Frame-Options"]  # which can only say no

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self.headers)
                if scope.get("scheme") == "https":
                    headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
                # a file may be kept, but an update must not mix an old script with a new page; a story is nobody's
                headers["Cache-Control"] = "no-cache" if "etag" in headers else "no-store"
            await send(message)

        await self.app(scope, receive, with_headers)


class LimitedSize:
    """413 for a body that is too large, whatever its Content-Length claims; 408 for one that does not come; 431.

    uvicorn limits headers only while they are incomplete. FastAPI's `max_body_size` answers outside all middleware, so
    without the headers above, and has no clock."""

    def __init__(self, app: ASGIApp, patience: float = PATIENCE):
        self.app, self.patience = app, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADERS:
            return await _refuse(431, f"the headers are larger than {LARGEST_HEADERS} bytes")(scope, receive, send)
        claimed = Headers(scope=scope).get("content-length", "0")
        if claimed.isdigit() and int(claimed[:20]) > LARGEST_BODY:
            return await _refuse(413, f"the body is larger than {LARGEST_BODY} bytes")(scope, receive, send)
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self.patience):
                while not messages or messages[-1].get("more_body", False):
                    messages.append(await receive())
                    if sum(len(message.get("body", b"")) for message in messages) > LARGEST_BODY:
                        refusal = _refuse(413, f"the body is larger than {LARGEST_BODY} bytes")
                        return await refusal(scope, receive, send)
        except TimeoutError:
            return await _refuse(408, f"the body did not come within {self.patience:g} seconds")(scope, receive, send)

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


def _refuse(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status, {"Connection": "close"})


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, but for clients that keep a connection busy with nothing: those that send no request, or send
    one letter by letter, that do not read what they asked for, or that open one connection after the other.

    most_of_one_client: connections; None behind a proxy, which is one client for all.
    """

    def __init__(self, *args, patience: float = PATIENCE, most_of_one_client: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.patience, self.most_of_one_client = patience, most_of_one_client
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
        self.timers[what] = self.loop.call_later(self.patience, self.transport.abort)

    def _stop(self, what: str) -> None:
        if timer := self.timers.pop(what, None):
            timer.cancel()


def raw_answer(status: str, reason: str) -> bytes:
    """A whole answer, for where no application is at hand to make one."""
    body = json.dumps({"error": reason})
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "Retry-After: 5"]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", body]).encode()


class Rate:
    """How many stories a client may ask for in any minute. What is remembered of a client lasts a minute too."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self.times: dict[str, deque[float]] = {}
        self.next_sweep = 0.0

    def wait(self, client: str) -> int:
        """Seconds to wait, at least one, for a client that has used up its minute, else 0."""
        now = time.monotonic()
        times = self.times.get(client, deque())
        while times and times[0] <= now - MINUTE:
            times.popleft()
        return max(1, math.ceil(times[0] + MINUTE - now)) if len(times) >= self.per_minute else 0

    def count(self, client: str) -> None:
        """One story more of this client."""
        now = time.monotonic()
        if now > self.next_sweep:
            self.times = {each: times for each, times in self.times.items() if times and times[-1] > now - MINUTE}
            self.next_sweep = now + MINUTE
        self.times.setdefault(client, deque()).append(now)


def client_key(scope: Scope) -> str:
    """An IPv4 address or the /64 of an IPv6 one: that of the socket, or the one that a trusted proxy reports."""
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
