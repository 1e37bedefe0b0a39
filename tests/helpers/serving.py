"""The server with a tiny checkpoint whose stories do not end by themselves: as a process, or in a thread.

A thread starts in a fraction of a second and is the same server over the network; a process is for the tests of
signals, of exit statuses, and of a server that dies.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from functools import cache, lru_cache
from pathlib import Path

import datasets
import httpx
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.runs import COUNTING, ROOT
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.commands.serve import parse
from tinystories.config.keys import TokenizerArguments
from tinystories.data.tokenizer import train_tokenizer
from tinystories.server.run import build_server, listen


OPTIONS = ("--device", "cpu")
LOGGERS = ("tinystories", "uvicorn.error", "asyncio")


class Client:
    """Requests to a server at `url`."""

    url: str
    client: httpx.Client

    def connect(self, url: str) -> None:
        self.url, self.client = url, httpx.Client(base_url=url, timeout=120)
        while self.client.get("/health").status_code == 503:
            self.check_alive()

    def check_alive(self) -> None:
        raise NotImplementedError

    def stop(self) -> tuple[int, str]:
        raise NotImplementedError

    def generate(self, **body) -> dict:
        """A story in one JSON object."""
        answer = self.client.post("/generate", json={"stream": False} | body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, **body) -> list[tuple[str, str]]:
        """(name, data) of each server-sent event, to the end of the stream."""
        with self.client.stream("POST", "/generate", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            return events_of(answer)

    def load(self) -> dict[str, int]:
        return self.client.get("/api/info").json()["load"]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.stop()


class ServerProcess(Client):
    """run_server.py, ready for requests; after `stop`, `start` starts it again at the same address."""

    def __init__(self, checkpoint: Path | str, *options):
        self.words, self.port = [checkpoint, *OPTIONS, *options], "0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_server.py"), *map(str, self.words), "--port", self.port],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.log = ""
        for line in self.process.stderr:  # ends with the process, if it cannot start
            self.log += line
            if address := re.search(r"http://\S+:(\d+)", line):
                self.port = address[1]
                break
        else:
            raise AssertionError(self.log)
        self.connect(address[0])

    def check_alive(self) -> None:
        assert self.process.poll() is None, self.process.stderr.read()

    def stop(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        """The exit status and everything it logged."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest = self.process.communicate(timeout=120)[1] if not self.process.stderr.closed else ""
        self.client.close()
        return self.process.returncode, self.log + rest


class ServerThread(Client):
    """The server in a thread of this process, on a free port."""

    def __init__(self, checkpoint: Path | str, *options):
        self.server = build_server(*parse([str(checkpoint), *OPTIONS, *map(str, options)]))
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.log = Log()
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        self.connect(f"http://127.0.0.1:{self.port}")

    def check_alive(self) -> None:
        assert self.thread.is_alive() and self.server.engine.failure is None, self.log.text()

    def stop(self) -> tuple[int, str]:
        """0 and everything that was logged meanwhile."""
        if self.thread.is_alive():
            self.client.close()
            self.server.handle_exit(signal.SIGTERM, None)
            self.thread.join(timeout=120)
            assert not self.thread.is_alive()
            self.log.close()
        return 0, self.log.text()


class Log(logging.Handler):
    """What a server in this process logs, tracebacks included."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []
        self.levels = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
        for logger in self.levels:
            logger.addHandler(self)
        logging.getLogger("tinystories").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def text(self) -> str:
        return "\n".join(self.lines)

    def close(self) -> None:
        for logger, level in self.levels.items():
            logger.removeHandler(self)
            logger.setLevel(level)
        super().close()


def events_of(answer: httpx.Response) -> list[tuple[str, str]]:
    found, name = [], "message"
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, line.removeprefix("data: ")))
            name = "message"
    return found


@cache
def counting_tokenizer() -> PreTrainedTokenizerBase:
    stories = datasets.Dataset.from_dict({"text": [f"Story {i}. {COUNTING}" for i in range(200)]})
    return train_tokenizer(stories, TokenizerArguments(vocab_size=320))


def untrained(folder: Path, context: int = 512, seed: int = 0, **sizes) -> Path:
    """The checkpoint of a fresh network, which generates arbitrary text. The end token has a logit of 0, which is never
    among the 50 highest: with top_k 50 a story is as long as requested."""
    model = untrained_model(counting_tokenizer(), context, seed, **sizes)
    model.get_output_embeddings().weight.data[model.config.eos_token_id] = 0
    return save(model, counting_tokenizer(), folder)


@lru_cache(maxsize=2)
def _opened(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_checkpoint(str(checkpoint))
    return model.double(), tokenizer


def written_alone(checkpoint: Path, prompt: str, seed: int, max_tokens: int, **settings) -> str:
    """What transformers' own `generate` writes for this seed, in the precision that the server uses."""
    model, tokenizer = _opened(checkpoint)
    inputs = tokenizer(prompt, return_tensors="pt")
    torch.manual_seed(seed)
    output = model.generate(**inputs, do_sample=True, max_new_tokens=max_tokens, **settings)[0]
    story, beginning = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (output, inputs["input_ids"][0]))
    return story[len(beginning) :].rstrip("\ufffd")
