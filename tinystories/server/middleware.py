"""Plain ASGI middleware: security headers on every answer, the allowed hosts and origins, limits on size and time of
requests."""

import asyncio
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinystories.server.arguments import REQUEST_TIMEOUT
from tinystories.server.schema import error_answer


LARGEST_BODY = 64 * 1024  # bytes
BYTES_PER_CHARACTER = 12  # in JSON, if it is written as two \\uXXXX escapes
RETRY_LATER = {"Retry-After": "5"}  # seconds; for refusals because of load
LARGEST_HEADERS = 16 * 1024  # bytes
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:@/\s]+)(:\d{1,5})?")  # of a Host header, with or without a port
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
    """Security headers on every answer, including errors. HSTS only for requests over TLS.

    frame_ancestors: sites that may embed the page in a frame; None: no site."""

    def __init__(self, app: ASGIApp, frame_ancestors: str | None = None):
        self.app, self.headers = app, dict(HEADERS)
        if frame_ancestors:
            self.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY + frame_ancestors
            del self.headers["X-Frame-Options"]  # which cannot name sites

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self.headers)
                if scope.get("scheme") == "https":
                    headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
                # browsers check files for updates, so that a new page never runs an old script; stories are not stored
                headers["Cache-Control"] = "no-cache" if "etag" in headers else "no-store"
            await send(message)

        await self.app(scope, receive, with_headers)


class AllowedHosts:
    """400 for a Host header that names none of this server's hosts, on any port.

    A page of another site can have its own name lead to this machine (DNS rebinding); the browser then lets it talk to
    this server, but still sends the page's name in this header.

    names: host names, *.NAME for any name below, * for any value at all."""

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app, self.any = app, "*" in names
        self.names = {name.lower() for name in names if not name.startswith("*")}
        self.endings = tuple(name[1:].lower() for name in names if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.any or self._is_ours(Headers(scope=scope).getlist("host")):
            return await self.app(scope, receive, send)
        reason = "the Host header is none of this server's names; --allowed_hosts (ALLOWED_HOSTS) adds one"
        await _refuse(scope, 400, reason)(scope, receive, send)

    def _is_ours(self, values: list[str]) -> bool:
        parts = HOST.fullmatch(values[0].lower()) if len(values) == 1 else None
        return parts is not None and (parts["name"] in self.names or parts["name"].endswith(self.endings))


class AllowedOrigins(CORSMiddleware):
    """Lets scripts of named sites read the answers (CORS), without cookies. A request from another site is answered
    as if this did not exist: the browser then keeps the answer from the script."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]):
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),  # OpenAI's clients send headers of their own
            expose_headers=("Retry-After",),
            max_age=600,
        )
        self.names = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and Headers(scope=scope).get("origin") in self.names:
            return await super().__call__(scope, receive, send)
        await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        found = super().preflight_response(request_headers)
        if found.status_code == 200:
            return found
        reason = "this method is not allowed from another site; GET and POST are"
        return JSONResponse({"error": reason}, found.status_code, {"Vary": "Origin"})


def largest_body(longest_prompt: int) -> int:
    """Bytes of a request whose prompt may have this many characters."""
    return max(LARGEST_BODY, BYTES_PER_CHARACTER * longest_prompt + LARGEST_BODY // 4)


class RequestLimits:
    """413 for a body that is too large, whatever its Content-Length says; 408 for one that does not arrive in time; 431
    for headers that are too large.

    uvicorn limits headers only while they are incomplete. FastAPI's `max_body_size` answers outside of all middleware,
    so without the headers above, and has no time limit."""

    def __init__(self, app: ASGIApp, request_timeout: float = REQUEST_TIMEOUT, largest_body: int = LARGEST_BODY):
        self.app, self.request_timeout, self.largest_body = app, request_timeout, largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"]) > LARGEST_HEADERS:
            return await _refuse(scope, 431, f"the headers are larger than {LARGEST_HEADERS} bytes")(
                scope, receive, send
            )
        too_large = _refuse(scope, 413, f"the body is larger than {self.largest_body} bytes")
        claimed = Headers(scope=scope).get("content-length", "0")
        if claimed.isdecimal() and int(claimed[:20]) > self.largest_body:
            return await too_large(scope, receive, send)
        body, complete = bytearray(), False
        try:
            async with asyncio.timeout(self.request_timeout):
                while not complete:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    complete = not message.get("more_body", False)
                    if len(body) > self.largest_body:
                        return await too_large(scope, receive, send)
        except TimeoutError:
            reason = f"the body did not arrive within {self.request_timeout:g} seconds"
            return await _refuse(scope, 408, reason)(scope, receive, send)
        messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)


def _refuse(scope: Scope, status: int, reason: str) -> JSONResponse:
    return error_answer(scope["path"], status, {"error": reason}, {"Connection": "close"})
