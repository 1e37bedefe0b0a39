"""Serve a checkpoint: a page to write stories with, POST /generate, and /v1/completions for OpenAI's clients.

    python run_server.py runs/demo
    CHECKPOINT_PATH=runs/demo PORT=8000 python run_server.py --host 0.0.0.0

CHECKPOINT is a folder or a Hub id; of a run folder, every checkpoint in it can be chosen on the page. Every option can
also be given as an environment variable, its name in capitals. docs/server.md tells how to run it for others.
"""

import asyncio
import logging
import os
import socket
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from transformers.utils import logging as transformers_logging

from tinystories.config.parser import StrictParser
from tinystories.errors import UserError, one_line


try:
    import fastapi  # noqa: F401
    import uvicorn
except ImportError as error:
    install = "python -m pip install -c constraints.txt -e '.[web]'"
    raise SystemExit(f"error: the server needs {error.name}: {install}") from None

from tinystories.server.admission import AdmissionController
from tinystories.server.app import create_app
from tinystories.server.arguments import ServerArguments
from tinystories.server.engine import Engine, Limits
from tinystories.server.middleware import LARGEST_HEADERS
from tinystories.server.model_pool import ModelPool
from tinystories.server.protocol import TimeoutProtocol


if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger("tinystories")


class Server(uvicorn.Server):
    """uvicorn, but for two things: a signal is passed on to the engine at once, and a dead engine ends the server."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self.engine, self.loop = engine, None

    def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
        super().handle_exit(sig, frame)
        if self.loop is not None:  # not from here: the signal may have come while this thread holds a lock
            self.loop.call_soon_threadsafe(self.engine.stop)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.engine.failure is not None

    async def startup(self, sockets: list[socket.socket]) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        host, port = sockets[0].getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        logger.info("open http://%s:%d in a browser; Ctrl-C ends the server", address, port)


def main(argv: list[str]) -> None:
    checkpoint, arguments = parse(argv)
    transformers_logging.set_verbosity_error()
    pool = ModelPool(checkpoint, arguments)
    engine = Engine(
        pool,
        Limits(arguments.max_running, arguments.max_waiting, arguments.max_seconds, arguments.shutdown_grace_seconds),
        arguments.threads,
    )
    admission = AdmissionController(engine, arguments.requests_per_minute, arguments.log_prompts)
    app = create_app(engine, admission, arguments.hosts(), arguments.request_timeout_seconds, arguments.frame_ancestors)
    if arguments.metrics:
        from tinystories.server.metrics import Metrics

        Metrics(engine).add_route(app)
    protocol = partial(
        TimeoutProtocol,
        request_timeout=arguments.request_timeout_seconds,
        most_of_one_client=None if arguments.trusted_proxies else max(1, arguments.max_connections // 4),
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        h11_max_incomplete_event_size=LARGEST_HEADERS,
        limit_concurrency=arguments.max_connections,
        timeout_graceful_shutdown=int(arguments.shutdown_grace_seconds) + 5,
        proxy_headers=arguments.trusted_proxies is not None,
        forwarded_allow_ips=arguments.trusted_proxies,
        server_header=False,
        access_log=False,
        log_level="error",
    )
    Server(config, engine).run([listen(arguments.host, arguments.port)])
    if engine.failure is not None:
        raise engine.failure


def parse(argv: list[str]) -> tuple[str, ServerArguments]:
    """The command line, before which stands what the environment says."""
    parser = StrictParser(
        (ServerArguments,),
        prog="run_server.py",
        description="Serve a checkpoint. Every option can also be set by an environment variable of its name in "
        "capitals, the checkpoint by CHECKPOINT_PATH.",
    )
    parser.add_argument("checkpoint", nargs="?", help="folder or Hub id", default=os.environ.get("CHECKPOINT_PATH"))
    names = [field.name for field in fields(ServerArguments)]
    argv = [f"--{name}={value}" for name in names if (value := os.environ.get(name.upper()))] + argv
    parser.check(argv)
    arguments, other = parser.build(argv)
    if not other.checkpoint:
        raise UserError("no checkpoint: name a folder or Hub id, or set CHECKPOINT_PATH")
    return other.checkpoint, arguments


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; give another --host or --port") from error
