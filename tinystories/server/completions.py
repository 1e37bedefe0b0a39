"""OpenAI's legacy completions over the same engine: a text, or the ids of its tokens, is continued."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from tinystories.server.admission import AdmissionController
from tinystories.server.engine import Stream
from tinystories.server.events import Alternative, Echo, Failed, Finished, GenerationRequest, Piece, ScoredToken
from tinystories.server.openai_api import (
    Choices,
    OpenAIErrorResponse,
    SamplingBody,
    head_of_answer,
    neutral,
    placed_tokens,
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


DEFAULT_MAX_TOKENS = 16
MOST_PROMPTS = 128
LARGEST_ID = 2**31 - 1
NEUTRAL = {"suffix": (("",), "this model continues a text, it does not fill a gap")}
FORMS = "a text, a list of texts, a list of token ids, or a list of such lists"


def check_form(prompt: Any) -> Any:
    """One message for what is none of the forms of a prompt, instead of one for each form.

    Raises:
        PydanticCustomError: it is none.
    """
    kinds = {type(each) for each in prompt} if isinstance(prompt, list) else {str}
    inner = [each for one in prompt for each in one] if kinds == {list} else prompt if kinds == {int} else []
    if (prompt is not None and not isinstance(prompt, (str, list))) or kinds not in ({str}, {int}, {list}):
        raise PydanticCustomError("prompt_form", "must be " + FORMS)
    if any(type(token) is not int or not 0 <= token <= LARGEST_ID for token in inner):
        raise PydanticCustomError("prompt_form", "token ids are whole numbers from 0")
    if kinds != {int} and isinstance(prompt, list) and len(prompt) > MOST_PROMPTS:
        raise PydanticCustomError("prompt_form", f"must have at most {MOST_PROMPTS} prompts")
    return prompt


Ids = list[Annotated[int, Field(ge=0, le=LARGEST_ID)]]
Prompts = Annotated[Text | list[Text] | Ids | list[Ids] | None, BeforeValidator(check_form)]


class CompletionBody(SamplingBody):
    """The body of POST /v1/completions. Token ids get the BOS of a text unless they begin with it."""

    prompt: Prompts
    """A text, a list of texts, the ids of tokens, or a list of such lists; null or empty: a story from its start."""
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = DEFAULT_MAX_TOKENS
    """The longest a story can be; clamped to what fits the context."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """Log-probabilities of each token and of this many of the likeliest."""
    best_of: Choices | None = None
    """Write this many, answer the `n` of the highest mean log-probability. Not with `stream`."""
    echo: bool | None = None
    """Repeat the prompt before the story."""
    suffix: str | None = neutral(*NEUTRAL["suffix"])

    @property
    def number(self) -> int:
        """Of the choices for each prompt."""
        return self.n or 1

    @property
    def candidates(self) -> int:
        """The stories of each prompt, of which `number` are answered."""
        return self.best_of or self.number


class CompletionResponse(BaseModel):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]


def add_routes(app: FastAPI, admission: AdmissionController) -> None:
    documented = responses(AdmissionController.REFUSALS, CompletionResponse, OpenAIErrorResponse)

    @app.post("/v1/completions", responses=documented)
    async def complete(body: CompletionBody, request: Request) -> Response:
        """Stories that continue the prompts, in the protocol of OpenAI's clients."""
        asked = to_generation_requests(body, admission)
        stream = admission.admit(request, asked)
        head = head_of_answer("cmpl", "text_completion", asked[0].model)
        if body.stream:
            await first_event(request, stream)
            return EventStream(stream, chunks(stream, head, body))
        stories = await complete_stories(request, stream)
        refuse_unfinished(stories)
        used = usage([story.finished for story in stories], body.candidates)
        return JSONResponse({**head, "choices": choices_of(stories, body), "usage": used})


def to_generation_requests(body: CompletionBody, admission: AdmissionController) -> list[GenerationRequest]:
    refuse_unsupported(body, NEUTRAL)
    if body.candidates < body.number:
        raise HTTPException(422, {"error": "best_of: must not be less than n", "field": "best_of"})
    if body.stream and body.candidates > body.number:
        message = "best_of: more than n cannot be streamed: which stories are best is known at their end"
        raise HTTPException(422, {"error": message, "field": "best_of"})
    prompts = [checked_prompt(prompt, bool(body.echo), admission) for prompt in prompts_of(body)]
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    # logprobs 0 asks for the logprob of the chosen token, which is recorded together with the alternatives
    scored = body.logprobs is not None or body.candidates > body.number
    alternatives = max(1, body.logprobs or 0) if scored else 0
    return story_requests(
        body, prompts, body.candidates, max_tokens, admission, alternatives=alternatives, echo=bool(body.echo)
    )


def prompts_of(body: CompletionBody) -> list[str | list[int]]:
    """null is an empty text: a story from its beginning."""
    found: Any = body.prompt
    if isinstance(found, list) and found and not isinstance(found[0], int):
        return found
    return ["" if found is None else found]


def checked_prompt(prompt: str | list[int], echo: bool, admission: AdmissionController) -> str | tuple[int, ...]:
    """Raises:
    HTTPException: a text that is too long, is nothing but control characters, or could not be echoed as it is.
    """
    if isinstance(prompt, list):
        return tuple(prompt)
    admission.check_length("prompt", prompt, shortest=0)
    text = sanitised(prompt)
    if prompt and not text:
        raise HTTPException(400, {"error": "prompt: it has only control characters", "field": "prompt"})
    if echo and text != prompt:
        message = "prompt: it has control characters or U+FFFD, which cannot be echoed: remove them, or send token ids"
        raise HTTPException(422, {"error": message, "field": "prompt"})
    return text


async def chunks(stream: Stream, head: dict[str, Any], body: CompletionBody) -> AsyncIterator[bytes]:
    offsets, ended = [0] * len(stream.requests), {}
    async for number, event in with_keep_alive(stream):
        match event:
            case None:
                yield KEEP_ALIVE
            case Piece() | Echo():
                pieces = [event] if isinstance(event, Piece) else list(event.pieces)
                text = "".join(piece.text for piece in pieces)
                logprobs = logprobs_of(pieces, body.logprobs, offsets[number])
                yield sse({**head, "choices": [choice_of(number, text, None, logprobs)]})
                offsets[number] += len(text)
            case Failed():
                yield sse_error(to_http_error(event))
                return
            case Finished():
                if error := unfinished(event):
                    yield sse_error(error)
                    return
                logprobs = logprobs_of([Piece("", 0, event.rest)], body.logprobs, offsets[number])
                yield sse({**head, "choices": [choice_of(number, "", event.finish_reason, logprobs)]})
                ended[number] = event
    if body.includes_usage:
        finished = [ended[number] for number in range(len(ended))]
        yield sse({**head, "choices": [], "usage": usage(finished, body.number)})
    yield DONE


def choices_of(stories: Sequence[CompleteStory], body: CompletionBody) -> list[dict[str, Any]]:
    found: list[CompleteStory] = []
    for start in range(0, len(stories), body.candidates):
        candidates = list(stories[start : start + body.candidates])
        if body.candidates > body.number:
            candidates.sort(key=mean_logprob, reverse=True)
        found += candidates[: body.number]
    return [
        choice_of(i, text_of(story), story.finished.finish_reason, logprobs_of(all_pieces(story), body.logprobs))
        for i, story in enumerate(found)
    ]


def mean_logprob(story: CompleteStory) -> float:
    """Nats per token, as OpenAI ranks the stories of best_of. The token that ends the story counts."""
    scored = [token.logprob or 0.0 for piece in story.pieces for token in piece.scored]
    scored += [token.logprob or 0.0 for token in story.finished.rest]
    return sum(scored) / max(1, len(scored))


def text_of(story: CompleteStory) -> str:
    return "".join(piece.text for piece in all_pieces(story))


def all_pieces(story: CompleteStory) -> list[Piece]:
    return [*story.prompt, *story.pieces, Piece("", 0, story.finished.rest)]


def choice_of(index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}


def logprobs_of(pieces: Sequence[Piece], number: int | None, offset: int = 0) -> dict[str, Any] | None:
    """Of each token, the one included that ends the story; None if not requested."""
    if number is None:
        return None
    tokens = placed_tokens(pieces, offset)
    return {
        "tokens": [token.scored.token.name for token in tokens],
        "token_logprobs": [token.scored.logprob for token in tokens],
        "top_logprobs": [top_logprobs(token.scored) for token in tokens] if number else None,
        "text_offset": [token.offset for token in tokens],
    }


def top_logprobs(scored: ScoredToken) -> dict[str, float] | None:
    """The logprobs of the alternatives by name (the highest where names are equal), and of the token itself."""
    if scored.logprob is None:
        return None
    found: dict[str, float] = {}
    for each in (*scored.alternatives, Alternative(scored.token, scored.logprob)):
        found.setdefault(each.token.name, each.logprob)
    return found
