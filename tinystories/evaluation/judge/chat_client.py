"""Questions to a server that speaks OpenAI's chat completions, over the standard library alone.

What may pass (a busy, broken or silent server) is asked again with growing pauses, then `ChatFailed`. What will not (a
wrong key, an unknown model, a request that the server refuses) is a `UserError` at once. The key is sent to the named
address only: a redirection is not followed. It stands in no message and no file.
"""

import json
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from urllib.parse import urlsplit

from tinystories.errors import UserError, one_line


KEY_VARIABLE = "JUDGE_API_KEY"
LARGEST_REPLY = 1 << 20  # bytes
PASSING = {408, 409, 425, 429}  # and every 5xx


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, whom, and how patiently. `url` ends before /chat/completions; times are in seconds."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0  # for one whole reply
    attempts: int = 5
    first_pause: float = 1.0  # doubles with each attempt
    longest_pause: float = 60.0  # also where the server asks for a longer one
    temperature: float | None = 0.0  # None: the server's own, for models that take no other

    def __post_init__(self):
        if not _is_address(self.url):
            raise UserError(f"{self.url!r} is not the address of a judge, such as http://localhost:8000/v1")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise UserError(f"the key in {KEY_VARIABLE} holds characters that no key has: set it again")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
    return known and url.isascii() and url.isprintable() and " " not in url


@dataclass(frozen=True)
class Reply:
    text: str
    model: str  # as the server names it


class ChatFailed(Exception):
    """No reply after all attempts; the message says why."""


class _Passing(Exception):
    """This attempt failed, the next one may not. `pause`: what the server asks for, in seconds."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments):
        return None


class Chat:
    """Asks one endpoint; may be used by several threads."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._stopped = threading.Event()
        self._send = urllib.request.build_opener(_NoRedirection).open

    def stop(self) -> None:
        """No further attempt: whoever waits for the next one fails at once."""
        self._stopped.set()

    def reply(self, messages: list[dict[str, str]]) -> Reply:
        """The reply to a conversation of {"role", "content"}.

        Raises:
            UserError: no attempt can succeed, nor that of another thread.
            ChatFailed: none has.
        """
        pause, reason = self.endpoint.first_pause, "stopped before it was asked"
        for attempt in range(self.endpoint.attempts):
            if self._stopped.is_set():
                raise ChatFailed(reason)
            try:
                return self._attempt(messages)
            except UserError:
                self.stop()
                raise
            except _Passing as error:
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
        except (OSError, HTTPException) as error:  # no connection, a dropped one, silence
            raise _Passing(f"no reply ({one_line(error)})") from error
        try:
            answer = json.loads(body)
            text, model = answer["choices"][0]["message"]["content"], answer.get("model", self.endpoint.model)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Passing("a reply that is no chat completion") from error
        if not isinstance(text, str) or not text.strip() or not isinstance(model, str):
            raise _Passing("an empty reply")
        return Reply(text, model)

    def _request(self, messages: list[dict[str, str]]) -> urllib.request.Request:
        content = {"model": self.endpoint.model, "messages": messages}
        if self.endpoint.temperature is not None:
            content["temperature"] = self.endpoint.temperature
        headers = {"Content-Type": "application/json", "User-Agent": "tinystories"}
        if self.endpoint.key is not None:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        address = self.endpoint.url.rstrip("/") + "/chat/completions"
        return urllib.request.Request(address, json.dumps(content).encode(), headers)

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """The exception that a status other than success means."""
        if error.code in PASSING or error.code >= 500:
            return _Passing(f"status {error.code}", _retry_after(error.headers))
        if error.code in (401, 403):
            return UserError(f"{self.endpoint.url} refuses the key (status {error.code}): set {KEY_VARIABLE}")
        if error.code == 404:
            return UserError(
                f"{self.endpoint.url} knows no model {self.endpoint.model!r}, or is not the address (status 404); "
                "it usually ends in /v1"
            )
        if error.code < 400:
            return UserError(f"{self.endpoint.url} sends the question to another address; give that one")
        return UserError(f"{self.endpoint.url} refuses the question (status {error.code}): {self._said(error)}")

    def _said(self, error: urllib.error.HTTPError) -> str:
        try:
            said = one_line(error.read(2000).decode("utf-8", errors="replace"))[:300]
        except (OSError, HTTPException):
            said = "without a reason"
        return said.replace(self.endpoint.key, "***") if self.endpoint.key else said


def _read(response, end: float) -> bytes:
    """The body, unless it comes too slowly or is too long: the timeout of a socket is for each piece of it alone."""
    body = b""
    while piece := response.read1(1 << 16):
        body += piece
        if time.monotonic() > end:
            raise TimeoutError("timed out")
        if len(body) > LARGEST_REPLY:
            raise _Passing("a reply that has no end")
    return body


def _retry_after(headers: HTTPMessage) -> float | None:
    """Seconds of the header Retry-After, a number or a date; None where it says nothing."""
    value = (headers.get("Retry-After") or "").strip()
    try:
        return max(0.0, float(value) if value.replace(".", "", 1).isdigit() else _seconds_until(value))
    except (ValueError, TypeError):
        return None


def _seconds_until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()
