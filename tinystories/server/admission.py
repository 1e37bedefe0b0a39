"""Where requests are taken in: the rate of each client, the names of the models, the way into the queue."""

import logging

from fastapi import HTTPException, Request

from tinystories.server.engine import Engine, Refused, Stream
from tinystories.server.events import GenerationRequest
from tinystories.server.rate_limit import RateLimiter, client_key


logger = logging.getLogger(__name__)


class AdmissionController:
    """`REFUSALS`: what a route that takes requests may answer instead, for OpenAPI."""

    REFUSALS = {
        400: "nothing to go on from",
        408: "the body did not come in time",
        413: "the body is too large",
        422: "a field that is not as it must be, and its bounds",
        429: "too many requests of this client, or of all; Retry-After says how long to wait",
        431: "the headers are too large",
        500: "the story had to be given up",
        503: "no model is at work",
        504: "the story took too long (only /v1/completions, which has no word for that)",
    }

    def __init__(self, engine: Engine, requests_per_minute: int, log_prompts: bool = False):
        self.engine, self.requests_per_minute, self.log_prompts = engine, requests_per_minute, log_prompts
        self.rate = RateLimiter(requests_per_minute)

    def model_named(self, name: str | None) -> str:
        if name is None:
            return self.engine.pool.default
        if name not in self.engine.pool.entries:
            raise HTTPException(422, {"error": "model: none has this name; GET /api/info lists them", "field": "model"})
        return name

    def take(self, request: Request, wish: GenerationRequest) -> Stream:
        """Put the wish in the queue.

        Raises:
            HTTPException: 429 with Retry-After, or 503.
        """
        client = client_key(request.scope)
        wait = self.rate.wait(client)
        if wait:
            words = f"more than {self.requests_per_minute} stories in a minute: try again in {wait} seconds"
            raise HTTPException(429, {"error": words}, {"Retry-After": str(wait)})
        try:
            stream = self.engine.submit(client, wish)
        except Refused as refused:
            raise HTTPException(refused.status, {"error": str(refused)}, {"Retry-After": "5"}) from refused
        self.rate.count(client)
        if self.log_prompts:
            logger.info("prompt: %r", wish.prompt)
        return stream
