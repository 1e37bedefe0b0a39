"""GET /metrics for Prometheus: off by default, and needs the extra `metrics`."""

from fastapi import FastAPI
from fastapi.responses import Response

from tinystories.errors import UserError, install_hint
from tinystories.server.engine import Engine, log_ending
from tinystories.server.events import Failed, Finished, GenerationRequest


try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
except ImportError as error:
    raise UserError("--metrics needs prometheus-client", install_hint("web,metrics")) from error


class Metrics:
    """The counters of one engine, in a registry of their own."""

    def __init__(self, engine: Engine):
        engine.on_end = self.count
        self.registry = CollectorRegistry()
        self.stories = Counter("tinystories_stories", "Stories by finish reason", ["ending"], registry=self.registry)
        self.tokens = Counter("tinystories_new_tokens", "Tokens generated", registry=self.registry)
        running = Gauge("tinystories_running", "Stories being generated", registry=self.registry)
        running.set_function(lambda: engine.running)
        waiting = Gauge("tinystories_waiting", "Requests in the queue", registry=self.registry)
        waiting.set_function(lambda: engine.waiting)
        self.seconds = Histogram(
            "tinystories_story_seconds", "Seconds from the prompt to the last token", registry=self.registry
        )

    def count(self, request: GenerationRequest, event: Finished | Failed) -> None:
        """Called by the engine when a story ends."""
        log_ending(request, event)
        self.stories.labels("failed" if isinstance(event, Failed) else event.finish_reason).inc()
        if isinstance(event, Finished):
            self.tokens.inc(event.new_tokens)
            self.seconds.observe(event.seconds)

    def add_route(self, app: FastAPI) -> None:
        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
