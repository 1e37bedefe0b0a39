"""Admission of requests: the rate of each client, the names of the models, and the way into the queue."""

import logging

from fastapi import HTTPException, Request

from tinystories.server.engine import Engine, Refused, Stream
from tinystories.server.events import GenerationRequest
from tinystories.server.middleware import RETRY_LATER
from tinystories.server.rate_limit import RateLimiter, client_key


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

    def __init__(self, engine: Engine, requests_per_minute: int, log_prompts: bool = False):
        self.engine, self.requests_per_minute, self.log_prompts = engine, requests_per_minute, log_prompts
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

    def admit(self, request: Request, generation: GenerationRequest) -> Stream:
        """Put the story that `request` asks for into the queue.

        Raises:
            HTTPException: 429 with Retry-After, or 503.
        """
        client = client_key(request.scope)
        wait = self.rate.wait(client)
        if wait:
            message = f"more than {self.requests_per_minute} stories in a minute: try again in {wait} seconds"
            raise HTTPException(429, {"error": message}, {"Retry-After": str(wait)})
        try:
            stream = self.engine.submit(client, generation)
        except Refused as refused:
            raise HTTPException(refused.status, {"error": str(refused)}, RETRY_LATER) from refused
        self.rate.count(client)
        if self.log_prompts:
            logger.info("prompt: %r", generation.prompt)
        return stream
