"""Reads the body of a request as JSON, and refuses what the standard (RFC 8259) does not allow or leaves open.

Python's own reader accepts NaN, takes the last of two equal keys, guesses the encoding, and fails in other ways at deep
nesting and at numbers of thousands of digits. Here each of these is the same error: the body is not JSON.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Receive, Scope, Send


class StrictRoute(APIRoute):
    """A route whose body is read by `parse`, and which answers HEAD where it answers GET, as HTTP asks for and FastAPI
    does not do. It is no method of the route, which would then be listed twice."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches({**scope, "method": "GET"} if self._is_head(scope) else scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_head(scope):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    def _is_head(self, scope: Scope) -> bool:
        return scope["type"] == "http" and scope["method"] == "HEAD" and "GET" in (self.methods or ())

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


class StrictRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: not UTF-8, not JSON, a key twice, a lone surrogate in a key, or larger than Python reads.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_with_distinct_keys)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise _not_json("it is nested too deeply") from error
    except ValueError as error:  # int() reads no more than some thousands of digits
        raise _not_json("a number has too many digits") from error


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _not_json("a key appears twice in one object")
    if any("\ud800" <= letter <= "\udfff" for key in found for letter in key):
        raise _not_json("a key has an incomplete character (a lone surrogate)")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _not_json(f"{name} is not a JSON value")


def _not_json(reason: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(reason, "", 0)
