"""A client of OpenAI's chat completions API that needs only the standard library.

Transient failures (a busy, broken or silent server) are retried with growing pauses, then raise `ChatFailed`. Permanent
ones (a wrong key, an unknown model, a refused request) raise `UserError` at once. The key is sent to the given address
only: redirects are not followed. It is never in a message or a file.
"""

import json
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from tinystories.errors import UserError, one_line


KEY_VARIABLE = "JUDGE_API_KEY"
LARGEST_REPLY = 1 << 20  # bytes
TRANSIENT = {408, 409, 425, 429}  # and every 5xx


@dataclass(frozen=True)
class Endpoint:
    """A server, its model, and how to retry. `url` ends before /chat/completions; times are in seconds."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0  # for one complete reply
    attempts: int = 5
    first_pause: float = 1.0  # between attempts; doubles each time
    longest_pause: float = 60.0  # even if the server asks for a longer one
    temperature: float | None = 0.0  # None: the default of the server, for models that accept no other

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise UserError(f"{self.url!r} is not the address of a judge, such as http://localhost:8000/v1")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise UserError(f"the key in {KEY_VARIABLE} has characters that a key cannot have: set it again")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:  # such as a port that is not a number
        return False
    return known and url.isascii() and url.isprintable() and " " not in url


@dataclass(frozen=True)
class Reply:
    text: str
    model: str  # the name that the server gives


class ChatFailed(Exception):
    """All attempts failed; the message says why."""


class _Transient(Exception):
    """This attempt failed, but another may succeed. `pause`: seconds that the server asks to wait."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


class Chat:
    """A client of one endpoint, for several threads."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._stopped = threading.Event()
        self._send = urllib.request.build_opener(_NoRedirect).open

    def stop(self) -> None:
        """Make no further attempt; calls that wait for their next attempt fail at once."""
        self._stopped.set()

    def reply(self, messages: list[dict[str, str]]) -> Reply:
        """The reply to a conversation: messages of {"role", "content"}.

        Raises:
            UserError: a permanent failure, which also stops the other threads.
            ChatFailed: all attempts failed.
        """
        pause, reason = self.endpoint.first_pause, "stopped before the first attempt"
        for attempt in range(self.endpoint.attempts):
            if self._stopped.is_set():
                raise ChatFailed(reason)
            try:
                return self._attempt(messages)
            except UserError:
                self.stop()
                raise
            except _Transient as error:
                reason = str(error)
                asked_for = random.uniform(0.5, 1) * pause if error.pause is None else error.pause
                pause *= 2
            if attempt + 1 < self.endpoint.attempts:
                self._stopped.wait(min(asked_for, self.endpoint.longest_pause))
        raise ChatFailed(f"{reason}, {self.endpoint.attempts} times")

    def _attempt(self, messages: list[dict[str, str]]) -> Reply:
        end = time.monotonic() + self.endpoint.timeout
        try:
            with self._send(self._request(messages), timeout=self.endpoint.timeout) as response:
                body = _read(response, end)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, HTTPException) as error:  # no connection, a dropped one, a timeout
            raise _Transient(f"no reply ({one_line(error)})") from error
        try:
            answer = json.loads(body)
            text, model = answer["choices"][0]["message"]["content"], answer.get("model", self.endpoint.model)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Transient("the reply is not a chat completion") from error
        if not isinstance(text, str) or not text.strip() or not isinstance(model, str):
            raise _Transient("an empty reply")
        return Reply(text, model)

    def _request(self, messages: list[dict[str, str]]) -> urllib.request.Request:
        content: dict[str, Any] = {"model": self.endpoint.model, "messages": messages}
        if self.endpoint.temperature is not None:
            content["temperature"] = self.endpoint.temperature
        headers = {"Content-Type": "application/json", "User-Agent": "tinystories"}
        if self.endpoint.key is not None:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        address = self.endpoint.url.rstrip("/") + "/chat/completions"
        return urllib.request.Request(address, json.dumps(content).encode(), headers)

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """The exception for an HTTP error status."""
        if error.code in TRANSIENT or error.code >= 500:
            return _Transient(f"status {error.code}", _retry_after(error.headers))
        if error.code in (401, 403):
            return UserError(f"{self.endpoint.url} refuses the key (status {error.code}): set {KEY_VARIABLE}")
        if error.code == 404:
            return UserError(
                f"{self.endpoint.url} knows no model {self.endpoint.model!r}, or is not the address (status 404); "
                "it usually ends in /v1"
            )
        if error.code < 400:
            return UserError(f"{self.endpoint.url} redirects the request to another address; give that one")
        return UserError(f"{self.endpoint.url} refuses the request (status {error.code}): {self._said(error)}")

    def _said(self, error: urllib.error.HTTPError) -> str:
        """The body of an error response on one line, without the key."""
        try:
            said = one_line(error.read(2000).decode("utf-8", errors="replace"))[:300]
        except (OSError, HTTPException):
            said = "without a reason"
        return said.replace(self.endpoint.key, "***") if self.endpoint.key else said


def _read(response: HTTPResponse, end: float) -> bytes:
    """The body. Fails at the time `end` or if it is too long: the timeout of a socket applies to each piece alone."""
    body = b""
    while piece := response.read1(1 << 16):
        body += piece
        if time.monotonic() > end:
            raise TimeoutError("timed out")
        if len(body) > LARGEST_REPLY:
            raise _Transient("the reply is too long")
    return body


def _retry_after(headers: Message) -> float | None:
    """Seconds of the header Retry-After, a number or a date; None if it is missing or malformed."""
    value = (headers.get("Retry-After") or "").strip()
    try:
        return max(0.0, float(value) if value.replace(".", "", 1).isdigit() else _seconds_until(value))
    except (ValueError, TypeError):
        return None


def _seconds_until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()
