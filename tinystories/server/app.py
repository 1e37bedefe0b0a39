"""The routes of the server: the page, stories, health and information about the models.

The application starts the engine that `create_app` is given with its event loop, and stops it at the end.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.staticfiles import StaticFiles

from tinystories.console import version
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.server import chat, completions, openai_api
from tinystories.server.admission import AdmissionController
from tinystories.server.arguments import REQUEST_TIMEOUT
from tinystories.server.engine import LOADING, READY, REASONS, Engine
from tinystories.server.events import Failed, Finished, GenerationRequest, Piece, random_seed
from tinystories.server.middleware import (
    RETRY_LATER,
    AllowedHosts,
    AllowedOrigins,
    RequestLimits,
    SecurityHeaders,
    largest_body,
)
from tinystories.server.reference import add_reference
from tinystories.server.schema import (
    BOUNDS,
    DEFAULT_MAX_TOKENS,
    ErrorResponse,
    GenerateBody,
    GenerateResponse,
    error_answer,
    error_detail,
    responses,
    settings_of,
    validation_error,
)
from tinystories.server.streaming import (
    DONE,
    KEEP_ALIVE,
    EventStream,
    complete_stories,
    final_object,
    first_event,
    head_of,
    sse,
    with_keep_alive,
)
from tinystories.server.strict_json import StrictRoute
from tinystories.server.text import EMPTY_PROMPT, sanitised, tidied


STATIC = Path(__file__).parent / "static"
OTHER_SITE = "pages of this site may not use this server"


def create_app(
    engine: Engine,
    admission: AdmissionController,
    allowed_hosts: Sequence[str] = ("*",),
    request_timeout: float = REQUEST_TIMEOUT,
    frame_ancestors: str | None = None,
    allowed_origins: Sequence[str] = (),
) -> FastAPI:
    """allowed_hosts: names in the Host header that are answered to, * for any; request_timeout: seconds for a body to
    arrive; frame_ancestors: sites that may embed the page in a frame; allowed_origins: sites whose scripts may read
    the answers."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start(asyncio.get_running_loop())
        yield
        engine.stop()

    app = FastAPI(
        title="TinyStories",
        version=version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # an address with one too many is 404, as documented, and not a redirect
    )
    app.router.route_class = StrictRoute
    add_page(app)
    add_health(app, engine)
    add_info(app, engine, admission)
    add_stories(app, admission)
    openai_api.add_models(app, admission)
    completions.add_routes(app, admission)
    chat.add_routes(app, admission)
    add_reference(app, admission)
    add_errors(app)
    app.add_middleware(
        RequestLimits, request_timeout=request_timeout, largest_body=largest_body(admission.longest_prompt)
    )
    if allowed_origins:
        app.add_middleware(AllowedOrigins, origins=allowed_origins)
    app.add_middleware(AllowedHosts, names=allowed_hosts)
    app.add_middleware(SecurityHeaders, frame_ancestors=frame_ancestors)
    return app


def add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> FileResponse:
        return FileResponse(STATIC / "icon.svg")


def add_health(app: FastAPI, engine: Engine) -> None:
    unready: dict[int | str, dict[str, Any]] = {503: {"description": "no model is ready"}}

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process answers. Always 200, so that a page waiting for the model logs no error in the console."""
        return {"alive": True, "ready": engine.state == READY}

    @app.get("/health/ready", responses=unready)
    @app.get("/health", responses=unready)
    async def ready() -> Response:
        """A model is ready for requests."""
        if engine.state == READY:
            return JSONResponse({"alive": True, "ready": True})
        body = {"alive": True, "ready": False, "reason": REASONS[engine.state]}
        return JSONResponse(body, 503, RETRY_LATER)


def add_info(app: FastAPI, engine: Engine, admission: AdmissionController) -> None:
    @app.get("/api/info", responses={503: {"description": "the model is being loaded", "model": ErrorResponse}})
    async def info(request: Request) -> dict[str, Any]:
        """What the page shows: models, presets, bounds, load, and the limits for the client that asks."""
        pool = engine.pool
        batcher = pool.batchers.get(pool.default)
        if batcher is None:
            raise HTTPException(503, {"error": REASONS[LOADING]}, RETRY_LATER)
        return {
            "version": app.version,
            "model": pool.default,
            "models": [{"id": entry.id, "step": entry.step} for entry in pool.entries.values()],
            "parameters": batcher.parameters,
            "context": batcher.decoder.context,
            "vocabulary": len(batcher.tokenizer),
            "device": str(pool.device),
            "dtype": batcher.dtype,
            "default_preset": DEFAULT_PRESET,
            "presets": PRESETS,
            "bounds": {
                **BOUNDS,
                "prompt": (1, admission.longest_prompt),
                "max_tokens": (1, batcher.decoder.context),
            },
            "defaults": {"max_tokens": min(DEFAULT_MAX_TOKENS, batcher.decoder.context)},
            "limits": {
                "requests_per_minute": admission.limit_of(request),
                "running": engine.limits.running,
                "waiting": engine.limits.waiting,
                "seconds": engine.limits.seconds,
            },
            "load": {"running": engine.running, "waiting": engine.waiting},
        }


def add_stories(app: FastAPI, admission: AdmissionController) -> None:
    @app.post("/generate", responses=responses(AdmissionController.REFUSALS, GenerateResponse, ErrorResponse))
    async def generate(body: GenerateBody, request: Request) -> Response:
        """A story that continues `prompt`: server-sent events, or one JSON object with `stream: false`."""
        prompt = prompt_of(body, admission)
        asked = to_generation_request(body, prompt, admission)
        stream = admission.admit(request, [asked])

        def end(finished: Finished) -> dict[str, Any]:
            found = final_object(asked, finished)
            return {**found, "text": tidied(prompt, found["text"])} if body.tidy else found

        if not body.stream:
            (story,) = await complete_stories(request, stream)
            return JSONResponse(end(story.finished))
        started = await first_event(request, stream)

        async def content() -> AsyncIterator[bytes]:
            yield sse({**head_of(asked), **asdict(started)}, "start")
            async for _, event in with_keep_alive(stream):
                match event:
                    case None:
                        yield KEEP_ALIVE
                    case Piece():
                        yield sse(piece_data(event))
                    case Finished():
                        yield sse(end(event)) + DONE
                    case Failed():
                        yield sse({"error": event.error}, "error")

        return EventStream(stream, content())


def prompt_of(body: GenerateBody, admission: AdmissionController) -> str:
    admission.check_length("prompt", body.prompt)
    prompt = sanitised(body.prompt).strip()
    if not prompt:
        raise HTTPException(400, EMPTY_PROMPT)
    return prompt


def to_generation_request(body: GenerateBody, prompt: str, admission: AdmissionController) -> GenerationRequest:
    if body.preset is not None and body.preset not in PRESETS:
        raise HTTPException(422, {"error": f"preset: must be one of {', '.join(PRESETS)}", "field": "preset"})
    return GenerationRequest(
        admission.resolve_model(body.model),
        prompt,
        settings_of(body),
        body.max_tokens,
        seed=random_seed() if body.seed is None else body.seed,
        alternatives=body.alternatives,
    )


def piece_data(piece: Piece) -> dict[str, Any]:
    found: dict[str, Any] = {"token": piece.text, "tokens": piece.tokens}
    if piece.scored:
        found["probability"] = piece.probability
        found["alternatives"] = [
            {"text": each.token.text, "probability": each.probability, **({"end": True} if each.token.end else {})}
            for each in piece.alternatives
        ]
    return found


def add_errors(app: FastAPI) -> None:
    """Every error is a JSON object with one line of text, without the input or a traceback."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        path = request.url.path
        bounds = openai_api.BOUNDS if path.startswith("/v1/") else BOUNDS
        return error_answer(path, 422, validation_error(error.errors(), bounds, path))

    @app.exception_handler(StarletteHTTPException)  # FastAPI's own is one of these
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        path, detail = request.url.path, error_detail(error)
        if detail == {"error": "Not Found"}:
            detail = {"error": openai_api.unknown_route(path)}
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "GET")
            detail = {"error": f"this route answers {allowed}, and not this method; GET /docs describes it"}
        if request.method == "OPTIONS" and "origin" in request.headers:  # a browser asks for a page of another site
            detail = {"error": f"{OTHER_SITE}; --allowed_origins (ALLOWED_ORIGINS) names those that may"}
        return error_answer(path, error.status_code, detail, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return error_answer(request.url.path, 500, {"error": "internal server error"})
