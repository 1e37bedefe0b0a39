"""OpenAI's chat completions over the same engine, for clients that know nothing else.

These models continue a text and answer no questions. So the messages are read as the story so far, and the answer is
its continuation. Messages of the system are instructions, which these models cannot follow, and are no part of it. No
chat template is used, and nothing is added but the BOS that each text gets. An instruction of the user is text like any
other: to tell it from a beginning, one would have to guess.

What chat front ends send beside the messages is accepted where the answer is one that they asked for: labels, empty
lists, null, tools that a model may call or not. It is refused with one line where the answer would not be what was
asked for: a tool that must be called, JSON, images.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from tinystories.server.admission import AdmissionController
from tinystories.server.engine import Stream
from tinystories.server.events import Failed, Finished, GenerationRequest, Piece, Token
from tinystories.server.openai_api import (
    OpenAIBody,
    OpenAIErrorResponse,
    SamplingBody,
    head_of_answer,
    neutral,
    refuse_unfinished,
    refuse_unsupported,
    sse_error,
    story_requests,
    unfinished,
    usage,
)
from tinystories.server.schema import MOST_TOKENS, Text, responses
from tinystories.server.streaming import (
    DONE,
    KEEP_ALIVE,
    CompleteStory,
    EventStream,
    complete_stories,
    first_event,
    sse,
    to_http_error,
    with_keep_alive,
)
from tinystories.server.text import sanitised


MOST_MESSAGES = 1024
INSTRUCTIONS = ("system", "developer")
NO_TOOLS = "this model continues stories and calls no tools"
TEXT_ONLY = "this model writes plain text only"
NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "tool_choice": (("none", "auto"), NO_TOOLS),
    "function_call": (("none", "auto"), NO_TOOLS),
    "response_format": (({"type": "text"},), TEXT_ONLY),
    "modalities": ((["text"],), TEXT_ONLY),
    "audio": ((), TEXT_ONLY),
    "prediction": ((), "the text is not predicted"),
    "web_search_options": ((), "this server searches nothing"),
    "reasoning_effort": (("none",), "this model does not reason"),
    "verbosity": (("medium",), "max_tokens limits the length"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "store": ((False,), "this server stores nothing"),
}
WORD_ENDS = re.compile(r"""[\w.,;:!?…)]["”\u2019]?\Z""")  # or the sentence, or what somebody says
WORD_BEGINS = re.compile(r"""["“(]?\w""")
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]


class Part(OpenAIBody):
    """A part of a message's content. Only text can be read."""

    model_config = {"extra": "allow"}  # of an image or a file, which is refused as what it is

    type: str
    """Only `text`."""
    text: Text | None = None
    cache_control: Any = None
    """Changes nothing: where other servers may cache the text."""


def refuse_call(value: Any) -> Any:
    """Raises:
    PydanticCustomError: another model called a tool.
    """
    if value:
        raise PydanticCustomError("call", f"not supported: {NO_TOOLS}: begin a new chat")
    return value


class Message(OpenAIBody):
    """A message. What clients send back of an answer (refusal, annotations ...) is empty, and is not read."""

    role: Literal["system", "developer", "user", "assistant"]
    """The texts of the user and the assistant are the story so far; those of the system and the developer are not
    read."""
    content: Text | list[Part] | None
    """A text, or parts of type `text`."""
    name: str | None = None
    """A label; changes nothing."""
    id: Any = None
    """A label; changes nothing."""
    reasoning_content: Any = None
    """Not read: what another model thought is no part of its answer."""
    reasoning: Any = None
    """Not read, as `reasoning_content`."""
    refusal: None = None
    audio: None = None
    function_call: Annotated[None, BeforeValidator(refuse_call)] = None
    tool_calls: Annotated[list[Any] | None, BeforeValidator(refuse_call)] = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class ChatBody(SamplingBody):
    """The body of POST /v1/chat/completions. The texts of user and assistant, in their order, are the story so far."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    """The texts of user and assistant, in their order, are the story so far."""
    max_tokens: Tokens | None = None
    """The longest a story can be. Default: to its end, or as far as the model reads."""
    max_completion_tokens: Tokens | None = None
    """The newer name of `max_tokens`."""
    logprobs: bool | None = False
    """Log-probabilities of each token."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And of this many of the likeliest. Needs `logprobs`."""
    tools: list[Any] | None = None
    """Tools that a model may call: this one calls none, and answers with text."""
    functions: list[Any] | None = None
    """The older name of `tools`."""
    parallel_tool_calls: bool | None = None
    """Changes nothing."""
    metadata: Any = None
    """A label, as are the four below: Open WebUI and LibreChat name their chats with them. They change nothing."""
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    chat_id: Any = None
    session_id: Any = None
    tool_choice: Any = neutral(*NEUTRAL["tool_choice"])
    function_call: Any = neutral(*NEUTRAL["function_call"])
    response_format: Any = neutral(*NEUTRAL["response_format"])
    modalities: Any = neutral(*NEUTRAL["modalities"])
    audio: Any = neutral(*NEUTRAL["audio"])
    prediction: Any = neutral(*NEUTRAL["prediction"])
    web_search_options: Any = neutral(*NEUTRAL["web_search_options"])
    reasoning_effort: Any = neutral(*NEUTRAL["reasoning_effort"])
    verbosity: Any = neutral(*NEUTRAL["verbosity"])
    service_tier: Any = neutral(*NEUTRAL["service_tier"])
    store: Any = neutral(*NEUTRAL["store"])


class ChatResponse(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]


def add_routes(app: FastAPI, admission: AdmissionController) -> None:
    documented = responses(AdmissionController.REFUSALS, ChatResponse, OpenAIErrorResponse)

    @app.post("/v1/chat/completions", responses=documented)
    async def complete_chat(body: ChatBody, request: Request) -> Response:
        """The continuation of a story. The texts of user and assistant, in their order, are its beginning: those of the
        assistant as they were answered, those of the user set apart by a space. Messages of the system and of the
        developer are left out: this model follows no instructions."""
        stream = admission.admit(request, to_generation_requests(body, admission))
        model = stream.requests[0].model
        if body.stream:
            await first_event(request, stream)
            return EventStream(stream, chunks(stream, head_of_answer("chatcmpl", "chat.completion.chunk", model), body))
        stories = await complete_stories(request, stream)
        refuse_unfinished(stories)
        choices = [choice_of(i, story, body) for i, story in enumerate(stories)]
        used = usage([story.finished for story in stories], len(stories))
        head = head_of_answer("chatcmpl", "chat.completion", model)
        return JSONResponse({**head, "choices": choices, "usage": used})


def to_generation_requests(body: ChatBody, admission: AdmissionController) -> list[GenerationRequest]:
    refuse_unsupported(body, NEUTRAL)
    if body.top_logprobs is not None and not body.logprobs:
        raise HTTPException(422, {"error": "top_logprobs: needs logprobs: true", "field": "top_logprobs"})
    limits = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        message = "max_completion_tokens: differs from max_tokens, its older name: give one of them"
        raise HTTPException(422, {"error": message, "field": "max_completion_tokens"})
    story = story_so_far(body.messages)
    admission.check_length("messages", story, shortest=0, remedy="begin a new chat, or send fewer of them")
    text = sanitised(story)
    if not text.strip():
        message = "messages: a story needs a beginning: no message of the user or the assistant has a text"
        raise HTTPException(400, {"error": message, "field": "messages"})
    alternatives = max(1, body.top_logprobs or 0) if body.logprobs else 0
    max_tokens = limits.pop() if limits else MOST_TOKENS
    return story_requests(body, [text], body.n or 1, max_tokens, admission, alternatives=alternatives)


def story_so_far(messages: Sequence[Message]) -> str:
    """The texts of user and assistant in their order. An assistant's text continues what was there, as it was answered;
    white space around the user's is replaced by one space between two texts.

    Raises:
        HTTPException: 422 for content that is not text.
    """
    story = ""
    for message in messages:
        text = text_of(message)
        if message.role in INSTRUCTIONS:
            continue
        if message.role == "user":
            text = text.strip()
            spaced = bool(story and text and not story[-1].isspace())
        else:
            spaced = was_stripped(story, text)
        story += " " * spaced + text
    return story


def was_stripped(story: str, text: str) -> bool:
    """Whether a front end took away the space that an answer began with, as Open WebUI does: a word of it would run
    into the last one. An answer may also end a word that the user began, but seldom does. Where there is no space at
    all, the words of the language have none between them."""
    runs_on = WORD_ENDS.search(story[-2:]) and WORD_BEGINS.match(text)
    return bool(runs_on) and (" " in story or " " in text)


def text_of(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    for part in message.content or []:
        if part.type != "text" or part.text is None or part.model_extra:
            reason = "messages: a part of a message must be text: this model reads no images, audio or files"
            raise HTTPException(422, {"error": reason, "field": "messages"})
    return "".join(part.text or "" for part in message.content or [])


async def chunks(stream: Stream, head: dict[str, Any], body: ChatBody) -> AsyncIterator[bytes]:
    ended: dict[int, Finished] = {}
    for number in range(len(stream.requests)):
        yield sse(chunk(head, number, {"role": "assistant", "content": ""}))
    async for number, event in with_keep_alive(stream):
        match event:
            case None:
                yield KEEP_ALIVE
            case Piece():
                yield sse(chunk(head, number, {"content": event.text}, logprobs=logprobs_of([event], body)))
            case Failed():
                yield sse_error(to_http_error(event))
                return
            case Finished():
                if error := unfinished(event):
                    yield sse_error(error)
                    return
                rest = logprobs_of([Piece("", 0, event.rest)], body)
                yield sse(chunk(head, number, {}, event.finish_reason, rest))
                ended[number] = event
    if body.includes_usage:
        finished = [ended[number] for number in range(len(ended))]
        yield sse({**head, "choices": [], "usage": usage(finished, len(finished))})
    yield DONE


def chunk(
    head: dict[str, Any],
    index: int,
    delta: dict[str, str],
    reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {**head, "choices": [{"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}]}


def choice_of(index: int, story: CompleteStory, body: ChatBody) -> dict[str, Any]:
    message = {"role": "assistant", "content": story.finished.text, "refusal": None}
    logprobs = logprobs_of([*story.pieces, Piece("", 0, story.finished.rest)], body)
    return {"index": index, "message": message, "finish_reason": story.finished.finish_reason, "logprobs": logprobs}


def logprobs_of(pieces: Sequence[Piece], body: ChatBody) -> dict[str, Any] | None:
    """Of the tokens of the text; None if not requested. The token that ends the story has no text."""
    if not body.logprobs:
        return None
    scored = [token for piece in pieces for token in piece.scored if not token.token.end]
    content = [
        named(token.token, token.logprob)
        | {"top_logprobs": [named(each.token, each.logprob) for each in token.alternatives[: body.top_logprobs or 0]]}
        for token in scored
    ]
    return {"content": content, "refusal": None}


def named(token: Token, logprob: float | None) -> dict[str, Any]:
    return {"token": token.name, "logprob": logprob, "bytes": list(token.bytes) or None}
