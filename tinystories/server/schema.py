"""The bodies of requests and answers, their bounds, and the messages for invalid ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from tinystories.config.familiar import REQUEST_FIELDS
from tinystories.config.familiar import Field as Familiar
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.generation.sampler import Settings
from tinystories.server.events import LARGEST_SEED


LONGEST_PROMPT = 2048  # characters, unless the server is started with another max_prompt_characters
MOST_TOKENS = 1_000_000  # what does not fit the context is clamped
BOUNDS = {
    "prompt": (1, LONGEST_PROMPT),
    "max_tokens": (1, MOST_TOKENS),
    "temperature": (0.1, 2.0),
    "top_k": (0, 100),
    "top_p": (0.1, 1.0),
    "repetition_penalty": (1.0, 2.0),
    "seed": (0, LARGEST_SEED),
    "alternatives": (0, 8),
}
DEFAULT_MAX_TOKENS = 200


PLAIN_NAME = re.compile(r"[\w.-]{1,50}", re.ASCII)  # of an unknown field, which an error may repeat


def _within(name: str) -> Any:
    low, high = BOUNDS[name]
    return Field(ge=low, le=high, allow_inf_nan=False) if isinstance(high, float) else Field(ge=low, le=high)


Temperature = Annotated[float, _within("temperature")]
TopK = Annotated[int, _within("top_k")]
TopP = Annotated[float, _within("top_p")]
RepetitionPenalty = Annotated[float, _within("repetition_penalty")]
Seed = Annotated[int, _within("seed")]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "lone surrogate") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class GenerateBody(BaseModel):
    """The body of POST /generate. Settings that are not given come from the preset."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    prompt: Text
    """The beginning of the story, of at most as many characters as `bounds` in /api/info says."""
    model: str | None = None
    """An id of /api/info. Default: its `model`."""
    preset: str | None = None
    """A name of /api/info. Sets those of the four settings below that are not given. Default: `natural`."""
    max_tokens: Annotated[int, _within("max_tokens")] = DEFAULT_MAX_TOKENS
    """The longest a story can be; clamped to what fits the context, which `clamped` reports."""
    temperature: Temperature | None = None
    """Higher: more surprising words."""
    top_k: TopK | None = None
    """Choose among this many of the likeliest tokens; 0: all."""
    top_p: TopP | None = None
    """Choose among the likeliest tokens that add up to this probability."""
    repetition_penalty: RepetitionPenalty | None = None
    """Makes tokens that are in the text less likely; 1: none."""
    seed: Seed | None = None
    """The same seed, the same story. Default: random, and reported."""
    tidy: bool = False
    """Correct white space, capitals and the last full stop of the final `text`."""
    alternatives: Annotated[int, _within("alternatives")] = 0
    """Add to each piece its probability and this many of the likeliest tokens."""
    stream: bool = True
    """Server-sent events instead of one JSON object."""


class ErrorResponse(BaseModel):
    """Any answer but 200: one line of text, and where it applies the field and its bounds."""

    error: str
    field: str | None = None
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    retry_after: int | None = None  # seconds, with 429: the number of the header


class GenerateResponse(BaseModel):
    """A complete story; in a stream of events, the last object before [DONE]."""

    finish_reason: Literal["stop", "length", "timeout", "cancelled"]
    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    tokens_per_second: float
    max_tokens: int
    clamped: bool
    model: str
    seed: int
    settings: dict[str, float]


def responses(refusals: dict[int, str], answer: type[BaseModel], problem: type[BaseModel]) -> dict[int | str, Any]:
    """The `responses` for OpenAPI of a route that answers with a stream of events or JSON."""
    streamed = {"description": "the story", "model": answer, "content": {"text/event-stream": {}}}
    found: dict[int | str, Any] = {200: streamed}
    return found | {status: {"description": text, "model": problem} for status, text in refusals.items()}


def settings_of(body: GenerateBody) -> Settings:
    """The settings of the body, completed by its preset."""
    preset = PRESETS[body.preset or DEFAULT_PRESET]
    return Settings(
        temperature=preset["temperature"] if body.temperature is None else body.temperature,
        top_k=int(preset["top_k"]) if body.top_k is None else body.top_k,
        top_p=preset["top_p"] if body.top_p is None else body.top_p,
        repetition_penalty=preset["repetition_penalty"] if body.repetition_penalty is None else body.repetition_penalty,
    )


def error_detail(error: HTTPException) -> dict[str, Any]:
    """The body of an error: a dictionary where this server raised it, text where the framework did."""
    detail: Any = error.detail  # declared as a string
    return detail if isinstance(detail, dict) else {"error": str(detail)}


def error_answer(
    path: str, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as the clients of a route expect it: OpenAI's have a form of their own."""
    if status == 429 and headers:
        body = {**body, "retry_after": int(headers["Retry-After"])}
    if path == "/v1" or path.startswith("/v1/"):
        return JSONResponse(openai_error(status, body), status, headers)
    return JSONResponse({name: value for name, value in body.items() if name != "code"}, status, headers)


def openai_error(status: int, body: dict[str, Any]) -> dict[str, Any]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    wait = body.get("retry_after")  # has no place of its own in this form
    message = f"{body['error']}: try again in {wait} seconds" if wait else body["error"]
    return {"error": {"message": message, "type": kind, "param": body.get("field"), "code": body.get("code")}}


def _field(error: dict[str, Any]) -> str | None:
    return next((str(part) for part in error["loc"] if part != "body"), None)


def _row(field: str | None, path: str) -> Familiar | None:
    return next((row for row in REQUEST_FIELDS.get(path, ()) if field in row.names), None)


def _unknown(name: str, field: str, path: str) -> str:
    """An unknown field by its name, if that may be repeated, and what to do instead."""
    row = _row(field, path)
    told = "leave it out; GET /docs lists the known ones"
    if row is not None:
        told = row.say or f"here it is called {row.here}"
    return f"field {name}: {told}" if PLAIN_NAME.fullmatch(name) else f"field: {told}"


def validation_error(
    errors: Sequence[dict[str, Any]], bounds: dict[str, tuple[float, float]], path: str = ""
) -> dict[str, Any]:
    """The first of pydantic's errors as one line, with its field and bounds, but without the input. Where a field may
    have one of several types, the error that is deepest in the value, and not about its type, is that of the type which
    was meant. path: of the route, which has its own fields."""
    familiar = [error for error in errors if error["type"] == "extra_forbidden" and _row(_field(error), path)]
    errors = familiar or errors  # not "prompt: field required" to whoever wrote it under another name
    field = _field(errors[0])
    of_field = (error for error in errors if _field(error) == field)
    first = max(of_field, key=lambda error: (len(error["loc"]), not error["type"].endswith("_type")))
    context = first.get("ctx", {})
    if first["type"] == "json_invalid":
        return {"error": f"the body is not JSON: {context['error'][:100]}"}
    if field is None:
        return {"error": "the body must be a JSON object, sent with Content-Type: application/json"}
    body: dict[str, Any] = {"field": field}
    if first["type"] == "extra_forbidden":
        unknown = _unknown(str(first["loc"][-1]), field, path)
        return {"error": f"the body has an unknown {unknown}", "field": field[:100]}
    if first["type"] == "greater_than" and field in bounds:
        body["bounds"] = list(bounds[field])
        message = "must be above {}, and at most {}".format(*bounds[field])
    elif first["type"] in ("greater_than_equal", "less_than_equal") and field in bounds:
        body["bounds"] = list(bounds[field])
        message = "must be between {} and {}".format(*bounds[field])
    elif first["type"] in ("string_too_short", "string_too_long"):
        body["bounds"] = list(bounds.get(field, (1, LONGEST_PROMPT)))
        message = "must have {} to {} characters".format(*body["bounds"])
    elif first["type"] == "string_unicode":
        message = "has an incomplete character (a lone surrogate)"
    elif first["type"] == "string_pattern_mismatch":
        message = "a key is not a token id"
    elif "ge" in context:
        message = f"must be at least {context['ge']}"
    else:
        message = first["msg"][:1].lower() + first["msg"][1:]
    return {"error": f"{_place(first, field)}: {message}", **body}


def _place(error: dict[str, Any], field: str) -> str:
    """The field, or where in a list of objects: messages[1].content."""
    match error["loc"]:
        case (_, _, int(number), str(inner), *_):
            return f"{field}[{number}].{inner}"
        case (_, _, int(number)):
            return f"{field}[{number}]"
        case _:
            return field
