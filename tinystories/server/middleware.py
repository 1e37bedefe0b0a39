"""Plain ASGI middleware: security headers on every answer, and limits on the size and duration of requests."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinystories.server.arguments import REQUEST_TIMEOUT


LARGEST_BODY = 64 * 1024  # bytes; a prompt of 2,048 characters takes 24,576 if each is written as two \\uXXXX escapes
RETRY_LATER = {"Retry-After": "5"}  # seconds; for refusals because of load
LARGEST_HEADERS = 16 * 1024  # bytes
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


class RequestLimits:
    """413 for a body that is too large, whatever its Content-Length says; 408 for one that does not arrive in time; 431
    for headers that are too large.

    uvicorn limits headers only while they are incomplete. FastAPI's `max_body_size` answers outside of all middleware,
    so without the headers above, and has no time limit."""

    def __init__(self, app: ASGIApp, request_timeout: float = REQUEST_TIMEOUT):
        self.app, self.request_timeout = app, request_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADERS:
            return await _refuse(431, f"the headers are larger than {LARGEST_HEADERS} bytes")(scope, receive, send)
        claimed = Headers(scope=scope).get("content-length", "0")
        if claimed.isdecimal() and int(claimed[:20]) > LARGEST_BODY:
            return await _refuse(413, f"the body is larger than {LARGEST_BODY} bytes")(scope, receive, send)
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self.request_timeout):
                while not messages or messages[-1].get("more_body", False):
                    messages.append(await receive())
                    if sum(len(message.get("body", b"")) for message in messages) > LARGEST_BODY:
                        refusal = _refuse(413, f"the body is larger than {LARGEST_BODY} bytes")
                        return await refusal(scope, receive, send)
        except TimeoutError:
            return await _refuse(408, f"the body did not arrive within {self.request_timeout:g} seconds")(
                scope, receive, send
            )

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


def _refuse(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status, {"Connection": "close"})
