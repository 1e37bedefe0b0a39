"""No client holds the server for itself: not its places, not the queue, and not by the opening of another model."""

import itertools
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from helpers.links import link
from helpers.raw_http import connected, heard, whole
from helpers.runs import mistake
from helpers.serving import Client, ServerThread, untrained
from tinystories.generation.decoder import Decoder
from tinystories.server import model_pool
from tinystories.server.engine import Limits


pytestmark = pytest.mark.slow

LONG = {"prompt": "Story 7.", "max_tokens": 4000, "top_k": 50, "seed": 1}
SHORT = {"prompt": "Story 7.", "max_tokens": 3, "top_k": 50, "seed": 1}
PLACES = ("--max_running", "2", "--max_waiting", "4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = untrained(tmp_path_factory.mktemp("fair") / "run", context=4096)
    untrained(folder / "checkpoint-7", seed=7)
    untrained(folder / "checkpoint-8", seed=8)
    broken = untrained(folder / "checkpoint-9") / "tokenizer.json"
    broken.write_text(broken.read_text(encoding="utf-8").replace('"merges"', '"smerges"'), encoding="utf-8")
    return folder


def wait_until(holds) -> None:
    """For what another thread does soon."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Asked:
    """One request on a connection of its own: its answer is read when the test wants it, and `leave` disconnects.

    forwarded: the address that a proxy reports; source: the address of the connection."""

    def __init__(
        self,
        server: Client,
        fields: dict,
        forwarded: str | None = None,
        source: str | None = None,
        path: str = "/generate",
    ):
        headers = [] if forwarded is None else [f"X-Forwarded-For: {forwarded}"]
        self.connection = connected(server, source)
        self.connection.sendall(whole(fields, "Connection: close", *headers, path=path))

    def status(self) -> int:
        """Waits until the answer begins."""
        return int(self.connection.recv(len("HTTP/1.1 200")).split()[1])

    def rest(self) -> bytes:
        return heard(self.connection)

    def leave(self) -> None:
        self.connection.close()


def check_shares(server: Client, first: Callable[[dict], Asked], second: Callable[[dict], Asked]) -> None:
    """The first client asks for as many long stories as it can; the second one is served all the same."""
    crowd = [first(LONG)]
    wait_until(lambda: server.load() == {"running": 1, "waiting": 0})
    for waiting in (1, 2):
        crowd.append(first(LONG))
        wait_until(lambda wanted=waiting: server.load() == {"running": 1, "waiting": wanted})  # a place is left free
    refused = first(LONG)
    assert refused.status() == 429
    answer = refused.rest().decode().lower()
    assert "retry-after: 5" in answer and "one client may have 2 requests in the queue" in answer

    other = second(SHORT)
    assert other.status() == 200 and b'"finish_reason": "length"' in other.rest()
    assert server.load() == {"running": 1, "waiting": 2}, "it was served beside the others and not after them"
    crowd.append(second(LONG))
    wait_until(lambda: server.load() == {"running": 2, "waiting": 2})
    crowd += [second(LONG) for _ in range(2)]
    wait_until(lambda: server.load() == {"running": 2, "waiting": 4})
    refused = second(SHORT)
    assert refused.status() == 429 and b"the queue is full (4 requests)" in refused.rest()
    for asked in crowd:
        asked.leave()
    wait_until(lambda: server.load() == {"running": 0, "waiting": 0})
    again = first(SHORT)
    assert again.status() == 200 and b"[DONE]" in again.rest()


def test_share_behind_a_proxy(checkpoint):
    """Guards: all places held by one visitor; all visitors counted as one, the proxy."""
    options = ("--trusted_proxies", "127.0.0.1", "--requests_per_minute", "1000")
    with ServerThread(checkpoint, *PLACES, *options) as server:
        one, other = (partial(Asked, server, forwarded=f"203.0.113.{number}") for number in (1, 2))
        check_shares(server, one, other)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_share_of_an_address(checkpoint):
    """Guards: a header by which one client becomes many."""
    with ServerThread(checkpoint, *PLACES) as server:
        forged = itertools.count(1)
        check_shares(
            server,
            lambda fields: Asked(server, fields, forwarded=f"203.0.113.{next(forged)}"),
            partial(Asked, server, source="127.0.0.2"),
        )


def test_whole_share(checkpoint):
    """With --client_share 1 one client may have every place."""
    with ServerThread(checkpoint, *PLACES, "--client_share", "1") as server:
        crowd = [Asked(server, LONG) for _ in range(2)]
        wait_until(lambda: server.load() == {"running": 2, "waiting": 0})
        crowd += [Asked(server, LONG) for _ in range(4)]
        wait_until(lambda: server.load() == {"running": 2, "waiting": 4})
        refused = Asked(server, SHORT)
        assert refused.status() == 429 and b"the queue is full" in refused.rest()
        for asked in crowd:
            asked.leave()


LISTED = {"model": "run", "prompt": ["Story 7."] * 32, "max_tokens": 4000, "top_k": 50, "seed": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_list_of_prompts(checkpoint, monkeypatch):
    """A client's list waits as its single stories would: another client is served meanwhile. It is admitted as a whole
    or not at all, and each story of it counts."""
    joined, most = itertools.count(), []
    prefill, step = Decoder.prefill, Decoder.step

    def spy_on_prefill(self, *arguments):
        next(joined)
        return prefill(self, *arguments)

    def spy_on_step(self, tokens):
        most.append(next(joined))
        return step(self, tokens)

    monkeypatch.setattr(Decoder, "prefill", spy_on_prefill)
    monkeypatch.setattr(Decoder, "step", spy_on_step)
    with ServerThread(checkpoint, "--max_running", "4") as server:
        many = partial(Asked, server, path="/v1/completions")
        first = many(LISTED)
        wait_until(lambda: server.load() == {"running": 2, "waiting": 30})
        assert many(LISTED | {"prompt": ["Story"] * 3}).status() == 429
        assert many(LISTED | {"prompt": ["Story"] * 33}).status() == 422
        assert server.load() == {"running": 2, "waiting": 30}, "nothing of the refused lists waits"
        other = Asked(server, SHORT, source="127.0.0.2")
        assert other.status() == 200 and b'"finish_reason": "length"' in other.rest()
        assert server.load() == {"running": 2, "waiting": 30}
        last = many(LISTED | {"prompt": ["Story"] * 2, "max_tokens": 1})
        first.leave()
        assert last.status() == 200
        wait_until(lambda: server.load() == {"running": 0, "waiting": 0})
        most.clear()
        with server.client.stream("POST", "/generate", json=LONG) as answer:
            pieces = answer.iter_bytes()  # httpx disconnects when this is collected
            next(pieces)
            scored = many(LISTED | {"max_tokens": 1, "echo": True, "logprobs": 1}, source="127.0.0.2")
            assert scored.status() == 200 and scored.rest()
        joins = [after - before - 1 for before, after in itertools.pairwise(most)]
        assert sum(joins) >= 31 and max(joins) <= 4, "32 prompts of one list delayed the next token of another story"


def test_rate_of_lists(checkpoint):
    """Guards: ten stories a minute, or ten lists of them."""
    with ServerThread(checkpoint, "--requests_per_minute", "10") as server:

        def status(**fields) -> int:
            ask = {"model": "run", "max_tokens": 1} | fields
            return server.client.post("/v1/completions", json=ask).status_code

        found = [status(prompt=["a", "b"], n=2), status(prompt="a", best_of=5), status(prompt=["a", "b"])]
        assert [*found, status(prompt="a"), status(prompt="a")] == [200, 200, 429, 200, 429]
        answer = server.client.post("/v1/completions", json={"model": "run", "prompt": ["a"] * 11})
        assert (
            answer.status_code == 422 and "asks for 11 stories, and may ask for 10" in answer.json()["error"]["message"]
        )


def test_sizes_of_a_share():
    """A part of the places, rounded down, and never none."""
    found = [
        (limits.running_of_client, limits.waiting_of_client)
        for limits in (
            Limits(16, 64, 1, 1, 0.5),
            Limits(16, 64, 1, 1, 1.0),
            Limits(1, 1, 1, 1, 0.5),
            Limits(3, 5, 1, 1, 0.5),
            Limits(16, 64, 1, 1, 1e-9),
        )
    ]
    assert found == [(8, 32), (16, 64), (1, 1), (1, 2), (1, 1)]


class Gate:
    """`load_checkpoint`, which waits at one checkpoint until the test lets it go on."""

    def __init__(self, monkeypatch, name: str):
        self.name, self.reached, self.open = name, threading.Event(), threading.Event()
        self.load, self.opened = model_pool.load_checkpoint, []
        monkeypatch.setattr(model_pool, "load_checkpoint", self)

    def __call__(self, source, *arguments):
        self.opened.append(Path(source).name)
        if Path(source).name == self.name:
            self.reached.set()
            assert self.open.wait(timeout=120)
        return self.load(source, *arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """A checkpoint that is opened in the background changes how transformers builds any model meanwhile."""
        self.open.set()
        for thread in threading.enumerate():
            if thread.name == "opener":
                thread.join(timeout=120)


def test_stories_go_on_while_a_model_is_opened(checkpoint, monkeypatch):
    """Guards: every stream stands still until the checkpoint that another client named is read."""
    with Gate(monkeypatch, "checkpoint-7") as gate, ServerThread(checkpoint) as server:
        with server.client.stream("POST", "/generate", json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            slow = Asked(server, SHORT | {"model": "checkpoint-7"})
            assert gate.reached.wait(timeout=60)
            for _ in range(100):  # pieces written after the opening began and before it ended
                next(lines)
            other = server.generate(**SHORT)  # a new story of the open model, by the same client
            assert other["new_tokens"] == 3 and server.load() == {"running": 1, "waiting": 1}
            next_slow = Asked(server, SHORT | {"model": "checkpoint-8"})  # one model is opened at a time
            wait_until(lambda: server.load()["waiting"] == 2)
            assert "checkpoint-8" not in gate.opened
            gate.open.set()
            for asked, name in ((slow, b"checkpoint-7"), (next_slow, b"checkpoint-8")):
                assert asked.status() == 200
                assert name in asked.rest()
            assert '"token"' in "".join(next(lines) for _ in range(4))
        assert gate.opened == ["run", "checkpoint-7", "checkpoint-8"]


def test_requests_for_a_model_that_cannot_be_opened(checkpoint, monkeypatch):
    """All that wait for it get 503, after one attempt; the stories of the others are not touched."""
    with Gate(monkeypatch, "checkpoint-9") as gate, ServerThread(checkpoint) as server:
        waiting = [Asked(server, SHORT | {"model": "checkpoint-9"}) for _ in range(3)]
        wait_until(lambda: server.load()["waiting"] == 3)
        assert server.generate(**SHORT)["new_tokens"] == 3
        gate.open.set()
        for asked in waiting:
            assert asked.status() == 503 and b"the model checkpoint-9 cannot be opened" in asked.rest()
        assert gate.opened == ["run", "checkpoint-9"]
        again = Asked(server, SHORT | {"model": "checkpoint-9"})  # it may have been repaired
        assert again.status() == 503 and gate.opened[2:] == ["checkpoint-9"]


def test_limits_while_a_model_is_opened(checkpoint, monkeypatch):
    """A request that waits for a model keeps its time limit, and its place ends with its connection."""
    with Gate(monkeypatch, "checkpoint-7") as gate, ServerThread(checkpoint, "--max_seconds", "0.5") as server:
        late = Asked(server, SHORT | {"model": "checkpoint-7"})
        assert gate.reached.wait(timeout=60)
        assert late.status() == 503 and b"timed out in the queue" in late.rest()
        left = Asked(server, SHORT | {"model": "checkpoint-7"})
        left.leave()
        wait_until(lambda: server.load() == {"running": 0, "waiting": 0})
        gate.open.set()


def test_stop_while_a_model_is_opened(checkpoint, monkeypatch):
    """Guards: a server that cannot be stopped; a request without an answer."""
    with Gate(monkeypatch, "checkpoint-7") as gate, ServerThread(checkpoint, "--shutdown_grace_seconds", "1") as server:
        waiting = Asked(server, SHORT | {"model": "checkpoint-7"})
        assert gate.reached.wait(timeout=60)
        assert "Traceback" not in server.stop()[1]
        assert waiting.status() == 503 and b"the server is stopping" in waiting.rest()


def test_links_in_a_run_folder(tmp_path, caplog):
    """Guards: a downloaded run that serves a folder of this machine as one of its checkpoints."""
    run, outside = untrained(tmp_path / "run", context=64), untrained(tmp_path / "outside", context=64, seed=5)
    untrained(run / "checkpoint-1", context=64, seed=1)
    link(run / "checkpoint-2", "checkpoint-1")
    link(run / "checkpoint-3", outside)
    link(untrained(run / "checkpoint-4", context=64) / "model.safetensors", outside / "model.safetensors")
    untrained(run / "checkpoint-5", context=64)
    with ServerThread(link(tmp_path / "latest", run)) as server:
        names = [model["id"] for model in server.client.get("/api/info").json()["models"]]
        assert names == ["run", "checkpoint-1", "checkpoint-2", "checkpoint-5"]
        assert server.generate(**SHORT, model="checkpoint-2")["model"] == "checkpoint-2"
        for name in ("checkpoint-3", "checkpoint-4"):
            assert server.client.post("/generate", json=SHORT | {"model": name}).status_code == 422
        link(run / "checkpoint-5/config.json", outside / "config.json")  # after the start
        answer = server.client.post("/generate", json=SHORT | {"model": "checkpoint-5"})
        assert answer.status_code == 503 and answer.json() == {"error": "the model checkpoint-5 cannot be opened"}
    for name in ("checkpoint-3", "checkpoint-4"):
        assert f"{name}, which leads out of the run folder by a link" in caplog.text
    assert "cannot serve checkpoint-5: it leads out of the run folder by a link" in caplog.text


def test_only_links_in_a_folder(tmp_path):
    run, outside = tmp_path / "run", untrained(tmp_path / "outside", context=64)
    run.mkdir()
    link(run / "checkpoint-3", outside)
    assert "lead out of it by links" in mistake(model_pool.find_checkpoints, str(run))
