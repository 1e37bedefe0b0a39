"""The server as a whole: model pool, engine, application and sockets, put together from the arguments."""

import asyncio
import errno
import logging
import socket
from functools import partial
from types import FrameType

import uvicorn
from transformers.utils import logging as transformers_logging

from tinystories.errors import UserError, one_line
from tinystories.server.admission import AdmissionController
from tinystories.server.app import create_app
from tinystories.server.arguments import LOCAL_NAMES, ServerArguments
from tinystories.server.engine import READY, Engine, Limits
from tinystories.server.model_pool import ModelPool
from tinystories.server.protocol import TimeoutProtocol


logger = logging.getLogger(__name__)

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to listen on; and what a browser here opens
LOOPBACK = ("127.0.0.1", "::1")
SECONDS_FOR_ANSWERS = 5  # after the grace period of the stories, for their answers to be sent


class Server(uvicorn.Server):
    """uvicorn, except that a signal reaches the engine at once, and an engine that fails ends the server."""

    def __init__(self, config: uvicorn.Config, engine: Engine, names: list[str]):
        super().__init__(config)
        self.engine, self.names = engine, names
        self.listeners: list[socket.socket] = []  # whose address is not said yet
        self.loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.loop is not None:  # not called from here: the interrupted thread may hold a lock
            self.loop.call_soon_threadsafe(self.engine.stop)

    async def on_tick(self, counter: int) -> bool:
        if self.listeners and self.engine.state == READY:
            self.say_address()
        return await super().on_tick(counter) or self.engine.failure is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop, self.listeners = asyncio.get_running_loop(), list(sockets or [])

    def say_address(self) -> None:
        """Once the sockets listen and a model is ready: whoever opens the address gets the page and a story."""
        for listener in self.listeners:
            host, port = listener.getsockname()[:2]
            logger.info("open http://%s:%d in a browser; Ctrl-C ends the server", address_of(host), port)
            if host not in LOOPBACK:
                others = ", ".join(name for name in self.names if name not in LOCAL_NAMES)
                reached = f"by these names: {others}" if others else "by none of its names; --allowed_hosts gives some"
                logger.info("it listens for other machines too, and answers them %s", reached)
        self.listeners = []


def address_of(host: str) -> str:
    """The host to type into a browser for a socket that listens on `host`."""
    host = EVERY_ADDRESS.get(host, host)
    return f"[{host}]" if ":" in host else host


def serve(checkpoint: str, arguments: ServerArguments) -> None:
    """Serve until a signal ends the process.

    Raises:
        UserError: the checkpoint cannot be served, or the address cannot be used.
    """
    server = build_server(checkpoint, arguments)
    server.run([listen(arguments.host, arguments.port)])
    server.engine.join()  # Python ends badly while a thread is inside torch
    if server.engine.failure is not None:
        raise server.engine.failure


def build_server(checkpoint: str, arguments: ServerArguments) -> Server:
    transformers_logging.set_verbosity_error()
    given = arguments
    limits = Limits(
        given.max_running, given.max_waiting, given.max_seconds, given.shutdown_grace_seconds, given.client_share
    )
    engine = Engine(ModelPool(checkpoint, given), limits, given.threads)
    behind_proxy = given.trusted_proxies is not None
    admission = AdmissionController(
        engine, given.requests_per_minute, given.log_prompts, given.max_prompt_characters, behind_proxy
    )
    app = create_app(
        engine, admission, given.hosts(), given.request_timeout_seconds, given.frame_ancestors, given.origins()
    )
    if given.metrics:
        from tinystories.server.metrics import Metrics

        Metrics(engine).add_route(app)
    protocol = partial(
        TimeoutProtocol,
        request_timeout=given.request_timeout_seconds,
        max_per_client=None if behind_proxy else max(1, given.max_connections // 4),
    )
    config = uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]  # declared as a class, but only called
        ws="none",
        limit_concurrency=given.max_connections,
        timeout_graceful_shutdown=int(given.shutdown_grace_seconds) + SECONDS_FOR_ANSWERS,
        proxy_headers=behind_proxy,
        forwarded_allow_ips=given.trusted_proxies,
        server_header=False,
        access_log=False,
        log_level="error",
    )
    return Server(config, engine, given.hosts())


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # asyncio does so only for sockets that name their protocol; without it, small answers wait for an ACK, 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """With what to do about it."""
    if error.errno == errno.EADDRINUSE:
        return "another program listens there, perhaps an earlier server; end it, or give --port 0 for a free port"
    if error.errno == errno.EACCES:
        return "this user may not; give another --host or --port, 1024 or higher"
    reason = (error.strerror or one_line(error)).partition(" (while")[0]  # the address again
    return f"{reason}; give another --host or --port"
