"""Admission of requests: the rate of each client, the names of the models, and the way into the queue."""

import logging
from collections.abc import Sequence

from fastapi import HTTPException, Request

from tinystories.server.engine import Engine, Refused, Stream
from tinystories.server.events import GenerationRequest
from tinystories.server.middleware import RETRY_LATER
from tinystories.server.rate_limit import RateLimiter, client_key
from tinystories.server.schema import LONGEST_PROMPT


logger = logging.getLogger(__name__)


class AdmissionController:
    """Decides whether a request enters the queue. `REFUSALS`: the error statuses of its routes, for OpenAPI."""

    REFUSALS = {
        400: "the prompt is empty after cleaning",
        408: "the body did not arrive in time",
        413: "the body is too large",
        422: "a field is invalid; the answer names it and its bounds",
        429: "too many requests from this client, or in the queue; Retry-After says how long to wait",
        431: "the headers are too large",
        500: "internal server error",
        503: "no model is ready",
        504: "the story took too long (only /v1/completions, whose protocol has no finish reason for it)",
    }

    def __init__(
        self,
        engine: Engine,
        requests_per_minute: int,
        log_prompts: bool = False,
        longest_prompt: int = LONGEST_PROMPT,
    ):
        """longest_prompt: characters."""
        self.engine, self.requests_per_minute, self.log_prompts = engine, requests_per_minute, log_prompts
        self.longest_prompt = longest_prompt
        self.rate = RateLimiter(requests_per_minute)

    def resolve_model(self, name: str | None) -> str:
        """The name of a model; the default for None.

        Raises:
            HTTPException: 422 for an unknown name.
        """
        if name is None:
            return self.engine.pool.default
        if name not in self.engine.pool.entries:
            message = "model: no model has this name; GET /api/info lists them"
            raise HTTPException(422, {"error": message, "field": "model"})
        return name

    def check_length(self, field: str, text: str, shortest: int = 1) -> None:
        """Raises:
        HTTPException: 422 for a text of fewer characters than `shortest` or more than `longest_prompt`.
        """
        bounds = [shortest, self.longest_prompt]
        if not bounds[0] <= len(text) <= bounds[1]:
            message = "{}: must have {} to {} characters".format(field, *bounds)
            raise HTTPException(422, {"error": message, "field": field, "bounds": bounds})

    @property
    def stories_at_once(self) -> int:
        """How many stories one request may ask for: what a client may have in the queue, and request in a minute."""
        return min(self.engine.limits.waiting_of_client, self.requests_per_minute)

    def admit(self, request: Request, stories: Sequence[GenerationRequest]) -> Stream:
        """Put the stories that `request` asks for into the queue, all or none.

        Raises:
            HTTPException: 429 with Retry-After, 503, or 422 for more stories than can ever be admitted at once.
        """
        if len(stories) > self.stories_at_once:
            message = (
                f"this request asks for {len(stories)} stories, and may ask for {self.stories_at_once}: send several "
                "requests (requests_per_minute, max_waiting and client_share of this server set the limit)"
            )
            raise HTTPException(422, {"error": message})
        client = client_key(request.scope)
        wait = self.rate.wait(client, len(stories))
        if wait:
            message = f"more than {self.requests_per_minute} stories in a minute: try again in {wait} seconds"
            raise HTTPException(429, {"error": message}, {"Retry-After": str(wait)})
        try:
            stream = self.engine.submit(client, stories)
        except Refused as refused:
            raise HTTPException(refused.status, {"error": str(refused)}, RETRY_LATER) from refused
        self.rate.count(client, len(stories))
        if self.log_prompts:
            for prompt in dict.fromkeys(story.prompt for story in stories):
                logger.info("prompt: %r", prompt)
        return stream
