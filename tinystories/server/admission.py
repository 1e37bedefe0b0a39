"""Admission of requests: the rate of each client, the names of the models, and the way into the queue."""

import logging
from collections.abc import Sequence

from fastapi import HTTPException, Request

from tinystories.server.arguments import STORIES_PER_MINUTE
from tinystories.server.engine import Engine, Refused, Stream
from tinystories.server.events import GenerationRequest
from tinystories.server.middleware import RETRY_LATER
from tinystories.server.rate_limit import RateLimiter, client_key, is_local
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
        requests_per_minute: int | None = None,
        log_prompts: bool = False,
        longest_prompt: int = LONGEST_PROMPT,
        behind_proxy: bool = False,
    ):
        """requests_per_minute: of every client; None: no limit for programs on this machine, `STORIES_PER_MINUTE` for
        all others; longest_prompt: characters; behind_proxy: a trusted proxy names the clients, none is on this
        machine."""
        self.engine, self.log_prompts, self.longest_prompt = engine, log_prompts, longest_prompt
        self.spares_local = requests_per_minute is None and not behind_proxy
        self.rate = RateLimiter(requests_per_minute or STORIES_PER_MINUTE)

    def resolve_model(self, name: str | None) -> str:
        """The name of a model; the default for None.

        Raises:
            HTTPException: 422 for an unknown name.
        """
        if name is None:
            return self.engine.pool.default
        if name not in self.engine.pool.entries:
            names = list(self.engine.pool.entries)
            others = f" and {len(names) - 3} more" if len(names) > 3 else ""
            message = f"model: no model has this name; this server has {', '.join(names[:3])}{others}"
            raise HTTPException(422, {"error": message, "field": "model", "code": "model_not_found"})
        return name

    def check_length(self, field: str, text: str, shortest: int = 1, remedy: str = "") -> None:
        """Raises:
        HTTPException: 422 for a text of fewer characters than `shortest` or more than `longest_prompt`.
        """
        bounds = [shortest, self.longest_prompt]
        if not bounds[0] <= len(text) <= bounds[1]:
            message = "{}: must have {} to {} characters".format(field, *bounds) + f": {remedy}" * bool(remedy)
            raise HTTPException(422, {"error": message, "field": field, "bounds": bounds})

    def limit_of(self, request: Request) -> int | None:
        """Stories that the client of this request may request in a minute; None: as many as it likes."""
        return None if self.spares_local and is_local(request.scope) else self.rate.per_minute

    def admit(self, request: Request, stories: Sequence[GenerationRequest]) -> Stream:
        """Put the stories that `request` asks for into the queue, all or none.

        Raises:
            HTTPException: 429 with Retry-After, 503, or 422 for more stories than can ever be admitted at once.
        """
        client, limit, share = client_key(request.scope), self.limit_of(request), self.engine.limits.waiting_of_client
        at_once = share if limit is None else min(share, limit)
        if len(stories) > at_once:
            message = (
                f"this request asks for {len(stories)} stories, and may ask for {at_once}: send several requests "
                "(requests_per_minute, max_waiting and client_share of this server set the limit)"
            )
            raise HTTPException(422, {"error": message})
        if limit is not None and (wait := self.rate.wait(client, len(stories))):
            # the seconds are not in the text: a page that counts them down would show two numbers
            message = f"more than {limit} stories in a minute from one client"
            raise HTTPException(429, {"error": message}, {"Retry-After": str(wait)})
        try:
            stream = self.engine.submit(client, stories)
        except Refused as refused:
            raise HTTPException(refused.status, {"error": str(refused)}, RETRY_LATER) from refused
        if limit is not None:
            self.rate.count(client, len(stories))
        if self.log_prompts:
            for prompt in dict.fromkeys(story.prompt for story in stories):
                logger.info("prompt: %r", prompt)
        return stream
