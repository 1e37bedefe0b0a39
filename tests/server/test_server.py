"""The server over HTTP: its answers, its errors, clients that disconnect or misbehave, and its shutdown."""

import asyncio
import json
import re
import signal
import socket
import struct
import threading
import time

import httpx
import openai
import pytest

from helpers.damaged_requests import PATHS, asked_of
from helpers.runs import mistake, run_command
from helpers.serving import Client, ServerProcess, ServerThread, events_of, untrained, written_alone
from tinystories.generation.presets import PRESETS
from tinystories.server.admission import AdmissionController
from tinystories.server.app import create_app
from tinystories.server.arguments import ServerArguments
from tinystories.server.engine import Engine, Limits
from tinystories.server.middleware import HEADERS, LARGEST_BODY
from tinystories.server.model_pool import ModelPool
from tinystories.server.run import listen
from tinystories.server.schema import BOUNDS


WILD = {"temperature": 2.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
LONG = {"prompt": "Story 7.", "max_tokens": 4000, **WILD}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = untrained(tmp_path_factory.mktemp("served") / "run", context=4096)
    untrained(folder / "checkpoint-7", seed=7)
    broken = untrained(folder / "checkpoint-9") / "tokenizer.json"
    broken.write_text(broken.read_text(encoding="utf-8").replace('"merges"', '"smerges"'), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(checkpoint):
    with ServerThread(checkpoint) as server:
        yield server


def error(answer: httpx.Response) -> str:
    """The one line that the user sees."""
    message = answer.json()["error"]
    assert message and "\n" not in message and "Traceback" not in answer.text
    return message


def wait_until(holds) -> None:
    """For what another thread or process does soon."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stream(server, checkpoint):
    """A start, pieces, a final object and [DONE]; the text is that of `generate`."""
    events = server.events(prompt="Story 7. one", seed=3, max_tokens=30, preset="creative")
    assert [name for name, _ in events] == ["start"] + ["message"] * (len(events) - 1)
    assert events[-1][1] == "[DONE]"
    start, *pieces, end = (json.loads(data) for _, data in events[:-1])
    assert start["seed"] == end["seed"] == 3
    assert start["settings"] == end["settings"] == PRESETS["creative"]
    assert "".join(piece["token"] for piece in pieces) == end["text"]
    assert end["finish_reason"] == "length"
    assert end["new_tokens"] == end["max_tokens"] == 30
    assert end["text"] == written_alone(checkpoint, "Story 7. one", 3, 30, **PRESETS["creative"])
    assert server.generate(prompt="Story 7. one", seed=3, max_tokens=30, preset="creative")["text"] == end["text"]


def test_story_is_independent_of_load(server):
    """Guards: mixed streams, and a seed that gives another story on a busy server."""
    bodies = [{"prompt": f"Story {i}. one", "seed": i, "max_tokens": 20 + i, "alternatives": i % 3} for i in range(20)]
    alone = [server.generate(**body)["text"] for body in bodies]

    async def together() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            answers = (client.post("/generate", json=body | {"stream": False}) for body in bodies)
            return [answer.json()["text"] for answer in await asyncio.gather(*answers)]

    assert asyncio.run(together()) == alone
    assert len(set(alone)) == len(alone)


def test_models_of_a_run(server):
    """Every checkpoint of the run can be named, and they differ; nothing else can be named."""
    info = server.client.get("/api/info").json()
    assert [(model["id"], model["step"]) for model in info["models"]] == [
        ("run", None),
        ("checkpoint-7", 7),
        ("checkpoint-9", 9),
    ]
    assert info["presets"] == PRESETS and info["model"] == "run" and info["context"] == 4096
    texts = {server.generate(prompt="Story", seed=1, model=name)["text"] for name in ("run", "checkpoint-7")}
    assert len(texts) == 2
    answer = server.client.post("/generate", json={"prompt": "Story", "model": "../../etc/passwd"})
    assert answer.status_code == 422 and "passwd" not in answer.text


def test_random_seed(server):
    """A random seed is reported, gives the same story again, and is a new one for each request."""
    first = server.generate(prompt="Story", max_tokens=30)
    assert server.generate(prompt="Story", max_tokens=30, seed=first["seed"])["text"] == first["text"]
    assert server.generate(prompt="Story", max_tokens=30)["seed"] != first["seed"]


MISTAKES = [
    ({"prompt": "x", field: value}, field)
    for field, (low, high) in BOUNDS.items()
    if field != "prompt"
    for value in (low - 1, high + 1, str(high), None if field in ("max_tokens", "alternatives") else [high])
] + [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 2049}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({}, "prompt"),
    ({"prompt": "x", "temprature": 1}, "temprature"),
    ({"prompt": "x", "preset": "wild"}, "preset"),
    ({"prompt": "x", "model": "none"}, "model"),
    ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
    ({"prompt": "x", "stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("body", "field"), MISTAKES, ids=lambda value: ascii(value)[:60])
def test_invalid_field(body, field, server):
    """The field is named with its bounds."""
    answer = server.client.post("/generate", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    value = body.get(field)
    if isinstance(value, (int, float)) and field in BOUNDS and field != "prompt" and value == int(value):
        assert answer.json()["bounds"] == list(BOUNDS[field])
    assert error(answer)


RAW = [
    (b"", 422),
    (b"{", 422),
    (b"[]", 422),
    (b"null", 422),
    (b"\xff\xfe", 422),
    (b'{"prompt": "x", "seed": NaN}', 422),
    (b'{"prompt": "x", "temperature": Infinity}', 422),
    (b'{"prompt": "x", "temperature": 1e999}', 422),
    (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 422),
    (b"[" * 20000, 422),
    (b'{"prompt": " \\u0000\\u001b "}', 400),
    (b" " * (LARGEST_BODY + 1), 413),
]


@pytest.mark.parametrize(("body", "status"), RAW, ids=[str(body[:30]) for body, _ in RAW])
def test_invalid_body(body, status, server):
    """One line for what is not JSON, not an object, too large or too deep."""
    answer = server.client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert error(answer)


def test_endless_body(server):
    """Guards: a size limit that looks at Content-Length alone, which a chunked body does not have."""

    def endless():
        for _ in range(LARGEST_BODY // 1024 + 10):
            yield b" " * 1024

    try:
        answer = server.client.post("/generate", content=endless(), headers={"Content-Type": "application/json"})
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        return  # the connection was closed while the client was still sending
    assert answer.status_code == 413


def test_other_content_type(server):
    """Guards: a form on another site, which browsers send without a preflight request."""
    answer = server.client.post("/generate", content='{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422


def ascii_id(value: str) -> str:
    return ascii(value[:20])


INERT = (
    "<script>alert(1)</script>",
    "one\x00\x1b[31m two",
    "<|endoftext|>",
    "</s>",
    "\u202eone",
    "one\ufffd",
    "\U0001f98a" * 99,
)


@pytest.mark.parametrize("prompt", INERT, ids=ascii_id)
def test_special_prompts(prompt, server):
    """Markup, control characters and special tokens in a prompt are plain text."""
    found = server.generate(prompt=prompt, max_tokens=5, seed=1)
    assert found["finish_reason"] in ("length", "stop")
    assert prompt[:3] not in found["text"]


def test_prompt_longer_than_context(server):
    """2,048 emoji are a valid prompt of more tokens than the model reads."""
    answer = server.client.post("/generate", json={"prompt": "\U0001f98a" * 2048})
    assert answer.status_code == 422
    assert answer.json()["field"] == "prompt"
    assert "this model reads 4096: shorten it" in error(answer)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.1}, {"temperature": 2.0, "top_k": 0}, {"top_k": 1}, {"top_p": 0.1}]
)
def test_extreme_settings(settings, server):
    assert server.generate(prompt="Story", max_tokens=20, **settings)["new_tokens"] > 0


def test_clamped_max_tokens(server):
    """More tokens than fit the context are clamped, and the answer says so."""
    with server.client.stream("POST", "/generate", json={"prompt": "Story 7.", "max_tokens": 100_000}) as answer:
        start = next(line for line in answer.iter_lines() if line.startswith("data: "))
    found = json.loads(start.removeprefix("data: "))
    assert found["clamped"] and found["max_tokens"] == 4096 - found["prompt_tokens"]


def test_tidy(server):
    """The final text is tidied; the pieces stay as they were generated."""
    events = [
        json.loads(data) for name, data in server.events(**LONG | {"seed": 5, "max_tokens": 60, "tidy": True})[1:-1]
    ]
    written = "".join(event["token"] for event in events[:-1])
    assert events[-1]["text"] != written
    assert written == server.generate(**LONG | {"seed": 5, "max_tokens": 60})["text"]


def test_security_headers(server):
    """On every answer, including errors of every layer; files outside static/ and other hosts are refused."""
    answers = [
        server.client.get("/"),
        server.client.get("/static/app.js"),
        server.client.get("/nothing"),
        server.client.get("/static/../../pyproject.toml"),
        server.client.get("/static/%2e%2e/app.py"),
        server.client.put("/generate"),
        server.client.post("/generate", json={"prompt": "Story", "max_tokens": 2}),
        server.client.post("/generate", json={}),
        server.client.post("/generate", content=b" " * (LARGEST_BODY + 1)),
        server.client.get("/", headers={"Host": "evil.example"}),
        server.client.get("/", headers={"X": "a" * 17_000}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 404, 404, 405, 200, 422, 413, 400, 431]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "Strict-Transport-Security" not in answer.headers
        assert "server" not in answer.headers


def test_damaged_checkpoint(server):
    """Guards: one request for a damaged checkpoint ends the server."""
    answer = server.client.post("/generate", json={"prompt": "Story", "model": "checkpoint-9"})
    assert answer.status_code == 503
    assert error(answer) == "the model checkpoint-9 cannot be opened"
    assert server.generate(prompt="Story", max_tokens=3)["new_tokens"] == 3


def test_openai_client(server, checkpoint):
    """Models, completions, logprobs, streams, usage and temperature 0."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["run", "checkpoint-7", "checkpoint-9"]
    ask = {"model": "run", "prompt": "Story 7. one", "seed": 3, "max_tokens": 25}
    found = client.completions.create(**ask, logprobs=2)
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    assert found.choices[0].text == written_alone(checkpoint, "Story 7. one", 3, 25, **neutral)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 25
    logprobs = found.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 25
    assert all(value <= 0 for value in logprobs.token_logprobs)
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == found.choices[0].text
    assert chunks[-1].usage == found.usage
    greedy = [client.completions.create(**ask | {"seed": seed}, temperature=0).choices[0].text for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_openai_errors(server):
    """Guards: a setting that is accepted and has no effect."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    wrong = (
        {"n": 0},
        {"best_of": 129},
        {"presence_penalty": 2.1},
        {"suffix": "end"},
        {"temperature": 1e-38},
    )
    for settings in wrong:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.completions.create(model="run", prompt="Story", **settings)
        assert caught.value.param == next(iter(settings))
    for name, value, bounds in (
        ("temperature", 3, "0 and 2"),
        ("top_p", 1.5, "0 and 1"),
        ("stop", "x" * 101, "1 to 100"),
    ):
        with pytest.raises(openai.UnprocessableEntityError, match=bounds):
            client.completions.create(model="run", prompt="Story", **{name: value})
    client.completions.create(model="run", prompt="Story", n=1, presence_penalty=0, max_tokens=2)
    with pytest.raises(openai.UnprocessableEntityError):
        client.completions.create(model="gpt-4", prompt="Story")


def forged(number: int) -> dict[str, str]:
    address = f"10.0.0.{number}"
    return {"X-Forwarded-For": address, "Forwarded": f"for={address}", "X-Real-IP": address, "True-Client-IP": address}


SECRET = {"prompt": "Story of a secret garden", "max_tokens": 3, "seed": 1, "stream": False}


def test_forged_address(checkpoint):
    """Guards: a header that evades the rate limit; prompts in the log."""
    with ServerThread(checkpoint, "--requests_per_minute", "2") as server:
        answers = [server.client.post("/generate", json=SECRET, headers=forged(i)) for i in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
        assert "more than 2 stories in a minute" in error(answers[2])
        assert server.client.get("/api/info").status_code == 200
        assert server.client.get("/metrics").status_code == 404
        assert SECRET["prompt"] not in server.stop()[1]


def test_trusted_proxy(checkpoint):
    """Addresses and TLS as the proxy reports them; also --log_prompts, --metrics and --frame_ancestors."""
    options = ("--requests_per_minute", "2", "--trusted_proxies", "127.0.0.1", "--log_prompts", "--metrics")
    options += ("--frame_ancestors", "https://huggingface.co")
    with ServerThread(checkpoint, *options) as server:
        clients = [0, 1, 2, 0, 0]
        answers = [server.client.post("/generate", json=SECRET, headers=forged(i)) for i in clients]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
        behind_tls = server.client.get("/", headers={"X-Forwarded-Proto": "https"})
        assert "frame-ancestors https://huggingface.co" in behind_tls.headers["Content-Security-Policy"]
        assert "X-Frame-Options" not in behind_tls.headers
        assert "max-age" in behind_tls.headers["Strict-Transport-Security"]
        metrics = server.client.get("/metrics").text
        assert 'tinystories_stories_total{ending="length"} 4.0' in metrics
        assert "tinystories_new_tokens_total 12.0" in metrics
        assert SECRET["prompt"] in server.stop()[1]


@pytest.fixture(scope="module")
def narrow(checkpoint):
    """A server for one story at a time and one in the queue."""
    with ServerThread(checkpoint, "--max_running", "1", "--max_waiting", "1", "--metrics") as server:
        yield server


def counted(server: Client, ending: str) -> float:
    line = re.search(rf'tinystories_stories_total{{ending="{ending}"}} (\S+)', server.client.get("/metrics").text)
    return float(line[1]) if line else 0.0


def test_disconnect_ends_the_story(narrow):
    """Guards: stories generated for nobody, about 4,000 tokens each. Streamed, not streamed, and in the queue."""
    with narrow.client.stream("POST", "/generate", json=LONG | {"seed": 1}) as answer:
        pieces = answer.iter_bytes()  # httpx disconnects when this is collected
        next(pieces)
        with pytest.raises(httpx.ReadTimeout):
            narrow.client.post("/generate", json=LONG, timeout=0.05)
        wait_until(lambda: narrow.load() == {"running": 1, "waiting": 0})
    wait_until(lambda: narrow.load()["running"] == 0)
    with pytest.raises(httpx.ReadTimeout):
        narrow.client.post("/generate", json=LONG | {"seed": 1, "stream": False}, timeout=0.2)
    wait_until(lambda: narrow.load()["running"] == 0)
    assert counted(narrow, "cancelled") == 2
    assert counted(narrow, "failed") == 1  # in the queue
    assert counted(narrow, "length") == counted(narrow, "stop") == 0


def test_full_queue(narrow):
    """429 with Retry-After. Guards: a limit of one that admits two."""
    wait_until(lambda: narrow.load() == {"running": 0, "waiting": 0})
    body = LONG | {"seed": 1}
    with narrow.client.stream("POST", "/generate", json=body) as first:
        pieces = first.iter_bytes()
        next(pieces)
        waiting = threading.Thread(target=lambda: httpx.post(f"{narrow.url}/generate", json=SECRET, timeout=120))
        waiting.start()
        wait_until(lambda: narrow.load() == {"running": 1, "waiting": 1})
        for _ in range(3):
            answer = narrow.client.post("/generate", json=body)
            assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
            assert "the queue is full (1 requests)" in error(answer)
    waiting.join(timeout=60)


def test_disconnect_ends_every_story(checkpoint):
    """Guards: stories of a list, or other choices, that are generated for nobody. Streamed, not streamed, waiting."""
    lists = {"model": "run", "prompt": ["Story 7.", "nine"], "n": 3, "max_tokens": 4000, "top_k": 50, "seed": 1}
    chat = {"model": "run", "messages": [{"role": "user", "content": "Story"}], "n": 6, "top_k": 50, "stream": True}
    with ServerThread(checkpoint, "--max_running", "4", "--client_share", "1") as server:
        for path, body in (("/v1/completions", lists | {"stream": True}), ("/v1/chat/completions", chat)):
            with server.client.stream("POST", path, json=body) as answer:
                pieces = answer.iter_bytes()
                next(pieces)
                wait_until(lambda: server.load() == {"running": 4, "waiting": 2})
            wait_until(lambda: server.load() == {"running": 0, "waiting": 0})
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/v1/completions", json=lists, timeout=0.3)
        wait_until(lambda: server.load() == {"running": 0, "waiting": 0})


def test_one_story_of_several_fails(server):
    """The others are cancelled; in a stream that has begun the error is its end."""
    ask = {"model": "run", "prompt": ["Story 7.", "Story", "\U0001f98a" * 2000], "max_tokens": 4000, "top_k": 50}

    def finished() -> int:
        return sum(server.log.text().count(f", {reason}, seed") for reason in ("length", "stop"))

    before = finished()
    answer = server.client.post("/v1/completions", json=ask)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "prompt"
    wait_until(lambda: server.load() == {"running": 0, "waiting": 0})
    assert finished() == before, "none was written to its end"
    with server.client.stream("POST", "/v1/completions", json=ask | {"stream": True}) as answer:
        *_, last = events_of(answer)
    assert "this model reads 4096: shorten it" in json.loads(last[1])["error"]["message"]
    wait_until(lambda: server.load() == {"running": 0, "waiting": 0})


LONGER = {"prompt": "one " * 1250, "max_tokens": 2}


def test_longer_prompts(checkpoint):
    """--max_prompt_characters, on every route; a body may then be as long as such a prompt."""
    with ServerThread(checkpoint, "--max_prompt_characters", "5000") as server:
        assert server.client.get("/api/info").json()["bounds"]["prompt"] == [1, 5000]
        for path in PATHS:
            fields = LONGER | ({} if path == "/generate" else {"model": "run"})
            assert server.client.post(path, json=asked_of(path, fields)).status_code == 200
            answer = server.client.post(path, json=asked_of(path, fields | {"prompt": "a" * 5001}))
            assert answer.status_code == 422 and " to 5000 characters" in answer.text
        fox = server.client.post("/generate", json={"prompt": "\U0001f98a" * 5000})
        assert fox.status_code == 422 and "this model reads 4096" in error(fox), "and not 413"


@pytest.fixture(scope="module")
def strict(checkpoint):
    """A server with short time limits and few connections."""
    options = {"max_seconds": 0.05, "request_timeout_seconds": 0.5, "max_connections": 40}
    with ServerThread(
        checkpoint, *(word for name, value in options.items() for word in (f"--{name}", value))
    ) as server:
        yield server


def test_timeout(strict):
    """Guards: a time-out that looks like the end of a story. OpenAI's clients get an error."""
    wait_until(lambda: strict.load() == {"running": 0, "waiting": 0})
    assert strict.generate(**LONG)["finish_reason"] == "timeout"
    client = openai.OpenAI(base_url=f"{strict.url}/v1", api_key="none", max_retries=0)
    ask = {"model": "run", "prompt": LONG["prompt"], "max_tokens": 4000, "extra_body": {"top_k": 50}}
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(**ask)
    assert caught.value.status_code == 504
    with pytest.raises(openai.APIError):
        list(client.completions.create(**ask, stream=True))
    with pytest.raises(openai.InternalServerError, match="took too long"):
        client.completions.create(**ask, n=3)


def connected(server: Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.port)), timeout=60)


def heard(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionResetError:
        return b""


GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_slow_headers(sent, strict):
    """Incomplete headers close the connection after the time limit, in the first and in a later request."""
    with connected(strict) as connection:
        connection.sendall(sent)
        assert heard(connection) == b""
    with connected(strict) as connection:
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(sent or b"G")
        heard(connection)


def test_slow_body(strict):
    with connected(strict) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_pipelined_requests(narrow):
    """Guards: with a second request in the pipe the server does not notice that the client disconnects."""
    body = json.dumps(LONG).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with connected(narrow) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body + GET)
        assert heard(connection) == b""
    wait_until(lambda: narrow.load() == {"running": 0, "waiting": 0})


def test_not_http(strict):
    """400 or 431 with the security headers."""
    for sent, status in (
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 17_000, 431),
        (b"\x16\x03\x01\r\n", 400),
    ):
        with connected(strict) as connection:
            connection.sendall(sent)
            answer = heard(connection).decode()
        assert answer.startswith(f"HTTP/1.1 {status}")
        assert all(f"{name}: {value}\r\n" in answer for name, value in HEADERS.items())


def test_connections_per_address(strict):
    """Guards: one client takes all connections. A quarter of the 40 is for one address."""
    crowd = [connected(strict) for _ in range(12)]
    answers = [heard(connection).decode() for connection in crowd]
    for connection in crowd:
        connection.close()
    assert sum(answer.startswith("HTTP/1.1 503") and "one address" in answer for answer in answers) >= 2
    assert strict.client.get("/health").status_code == 200


def reset(server: Client, sent: bytes = b"") -> None:
    """Connect, and reset the connection at once."""
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(sent)


def test_reset_connections(checkpoint):
    """Guards: a connection that has lost its peer before it is accepted breaks its own start and that of others.

    Honest requests at the same time are answered, although all together are more than the allowed connections."""
    statuses = []

    def ask() -> None:
        for _ in range(30):
            statuses.append(httpx.get(f"{server.url}/health/live", timeout=60).status_code)

    with ServerThread(checkpoint, "--max_connections", "40") as server:
        honest = [threading.Thread(target=ask) for _ in range(2)]
        for thread in honest:
            thread.start()
        for sent in (b"", GET, GET[:20]):
            for _ in range(200):
                reset(server, sent)
        for thread in honest:
            thread.join(timeout=60)
        assert statuses == [200] * 60
        wait_until(lambda: len(server.server.server_state.connections) <= 1)  # that of `server.client`
    assert "Traceback" not in server.log.text()


def test_no_delay(server):
    """Guards: small answers that wait 40 ms for the acknowledgement of the previous packet."""
    assert server.client.get("/health").status_code == 200
    for connection in server.server.server_state.connections:
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_sigterm(checkpoint):
    """Guards: connections cut off in the middle of an answer, and a server that cannot be stopped."""
    with ServerProcess(checkpoint, "--shutdown_grace_seconds", "0.2") as server:
        heard: list[str] = []

        def ask() -> None:
            """Story after story, until the server accepts no more."""
            ended = ""
            with httpx.Client(base_url=server.url, timeout=120) as client:
                while ended in ("", "length", "stop"):
                    try:
                        answer = client.post("/generate", json=LONG | {"stream": False})
                        ended = answer.json().get("finish_reason", f"status {answer.status_code}")
                    except httpx.ConnectError:
                        ended = "refused"
                    except httpx.TransportError as torn:
                        ended = f"cut off: {torn!r}"
                    heard.append(ended)

        listeners = [threading.Thread(target=ask) for _ in range(4)]
        for thread in listeners:
            thread.start()
        wait_until(lambda: server.load()["running"])
        status, log = server.stop(signal.SIGTERM)
        for thread in listeners:
            thread.join(timeout=60)
        assert status in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert set(heard) <= {"length", "stop", "cancelled", "status 503", "refused"}
        assert "Traceback" not in log


def test_loading(checkpoint):
    """503 until the model is ready. The application without its lifespan stays in this state."""
    arguments = ServerArguments(device="cpu")
    engine = Engine(ModelPool(str(checkpoint), arguments), Limits(1, 1, 1, 1))
    app = create_app(engine, AdmissionController(engine))

    async def answers() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            body = {"prompt": "Story"}
            return [
                await client.get("/health/live"),
                await client.get("/health/ready"),
                await client.get("/health"),
                await client.get("/api/info"),
                await client.post("/generate", json=body),
                await client.post("/v1/completions", json=body | {"model": "run"}),
            ]

    live, *others = asyncio.run(answers())
    assert live.status_code == 200
    for answer in others:
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        assert "the model is being loaded" in answer.text


def test_absent_checkpoint(tmp_path):
    """The engine's thread fails, and the process ends with one line and status 1, without an address to open."""
    (tmp_path / "empty").mkdir()
    process = run_command("run_server.py", tmp_path / "empty", "--port", "0")
    assert process.returncode == 1
    assert "cannot open" in process.stderr.splitlines()[-1] and "http" not in process.stderr
    assert "Traceback" not in process.stderr


def test_address_in_use(server):
    assert "give --port 0" in mistake(listen, "127.0.0.1", server.port)
