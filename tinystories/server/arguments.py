"""The options of run_server.py, each also an environment variable of the same name in capitals.

Imports nothing heavy: the command line is checked before torch is loaded.
"""

import re
from dataclasses import dataclass, field

from tinystories.errors import UserError


DTYPES = ("auto", "float64", "float32", "bfloat16")
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
ANY_ADDRESS = ("", "0", "0.0.0.0", "[::]")  # to listen on; no client calls a server by these
HOST_NAME = re.compile(r"\*|(\*\.)?[\w.-]+|\[[0-9A-Fa-f:.]+\]")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,*]+")
MOST_CHARACTERS = 1_000_000  # of a prompt; longer ones are no story's beginning
STORIES_PER_MINUTE = 10  # of a client on another machine, unless the server is started with another number
REQUEST_TIMEOUT = 10.0  # seconds for a request's headers, and for its body
RENAMED = {"farewell_seconds": "shutdown_grace_seconds", "patience_seconds": "request_timeout_seconds"}


@dataclass(frozen=True)
class ServerArguments:
    tokenizer_path: str | None = field(default=None, metadata={"help": "A tokenizer that is not the checkpoint's own."})
    revision: str | None = field(default=None, metadata={"help": "A branch, tag or commit of a Hub id."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address; 0.0.0.0 serves other machines too."})
    port: int = field(default=7779, metadata={"help": "Port to listen on; 0 takes a free one."})
    device: str = field(default="auto", metadata={"help": "auto (the accelerator, if any), cpu, cuda, mps."})
    dtype: str = field(
        default="auto",
        metadata={"help": "auto: a seed's story does not depend on what else is running: float32 on a CPU, float64 on "
                          "a GPU and for architectures of others; float32, bfloat16: less memory there, but a word "
                          "may differ now and then."},
    )  # fmt: skip
    threads: int = field(
        default=1,
        metadata={"help": "Processor cores for the model. More pay for a large model on an otherwise idle machine."},
    )  # fmt: skip
    max_prompt_characters: int = field(
        default=2048,
        metadata={"help": "Characters of a prompt, or of all messages of a chat. The model's context limits it too."},
    )
    requests_per_minute: int | None = field(
        default=None,
        metadata={"help": f"Stories that any one client may request in a minute. Not given: {STORIES_PER_MINUTE}, "
                          "and no limit for programs on this machine (127.0.0.1, ::1)."},
    )  # fmt: skip
    max_running: int = field(default=16, metadata={"help": "Stories generated at the same time."})
    max_waiting: int = field(default=64, metadata={"help": "Requests in the queue; one more gets 429."})
    client_share: float = field(
        default=0.5,
        metadata={"help": "Part of these places that one client may have, at least one of each: its next story waits "
                          "in the queue, and its next request there gets 429."},
    )  # fmt: skip
    max_seconds: float = field(default=120.0, metadata={"help": "Limit for a story, including its wait in the queue."})
    request_timeout_seconds: float = field(
        default=REQUEST_TIMEOUT,
        metadata={"help": "Limit for a request's headers, and again for its body."},
    )
    max_connections: int = field(default=512, metadata={"help": "Open connections; one more gets 503."})
    shutdown_grace_seconds: float = field(
        default=10.0, metadata={"help": "Time that running stories still have when the server stops."}
    )
    trusted_proxies: str | None = field(
        default=None,
        metadata={"help": "Comma-separated addresses of proxies whose X-Forwarded headers are trusted."},
    )
    allowed_hosts: str | None = field(
        default=None,
        metadata={"help": "Comma-separated host names this server answers to, besides localhost, 127.0.0.1, [::1] and "
                          "the address in `host`; *.NAME for any name below, * for any name at all."},
    )  # fmt: skip
    frame_ancestors: str | None = field(
        default=None,
        metadata={"help": "Sites that may embed the page in a frame, such as https://huggingface.co (default: none)."},
    )
    allowed_origins: str | None = field(
        default=None,
        metadata={"help": "Comma-separated sites whose pages may use this server from a browser (CORS), such as "
                          "https://app.example.org, exactly as the browser names them (default: none)."},
    )  # fmt: skip
    log_prompts: bool = field(default=False, metadata={"help": "Write prompts to the log."})
    metrics: bool = field(default=False, metadata={"help": "Answer GET /metrics (needs the extra `metrics`)."})

    def __post_init__(self) -> None:
        least = {
            "threads": 1,
            "requests_per_minute": 1,
            "max_running": 1,
            "max_waiting": 1,
            "max_connections": 1,
            "port": 0,
        }
        for name, low in least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise UserError(f"{name} must be at least {low}, got {value}")
        for name in ("max_seconds", "shutdown_grace_seconds", "request_timeout_seconds"):
            if not 0 < getattr(self, name) < 86400:
                raise UserError(f"{name} must be above 0 and below 86400 seconds, got {getattr(self, name)}")
        if not 0 < self.client_share <= 1:
            raise UserError(f"client_share must be above 0 and at most 1, got {self.client_share}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port must be from 0 to 65535, got {self.port}")
        if not 1 <= self.max_prompt_characters <= MOST_CHARACTERS:
            raise UserError(
                f"max_prompt_characters must be from 1 to {MOST_CHARACTERS}, got {self.max_prompt_characters}"
            )
        for origin in self.origins():
            if not ORIGIN.fullmatch(origin):
                raise UserError(
                    f"allowed_origins: {origin!r} is not an origin",
                    "give scheme, host and port as in https://app.example.org or http://localhost:3000, without a "
                    "path; * is not possible",
                )
        wrong = [name for name in self.named_hosts() if not HOST_NAME.fullmatch(name)]
        if wrong:
            raise UserError(
                f"allowed_hosts: {wrong[0]!r} is not a host name",
                "give names without a port, such as stories.example.org, *.example.org, or * for any",
            )
        if self.dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype}")

    def named_hosts(self) -> list[str]:
        return [name.strip() for name in self.allowed_hosts.split(",")] if self.allowed_hosts else []

    def origins(self) -> list[str]:
        return [name.strip() for name in self.allowed_origins.split(",")] if self.allowed_origins else []

    def hosts(self) -> list[str]:
        """The names that are accepted in the Host header, on any port."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        return [*LOCAL_NAMES, *([] if own in ANY_ADDRESS else [own]), *self.named_hosts()]
