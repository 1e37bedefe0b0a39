"""The server over HTTP: what it answers, what it refuses and how, and what happens when clients leave or it stops."""

import asyncio
import json
import re
import signal
import socket
import threading
import time

import httpx
import openai
import pytest

from helpers.runs import mistake, run_command
from helpers.serving import Server, untrained, written_alone
from tinystories.commands.serve import listen, parse
from tinystories.generation.presets import PRESETS
from tinystories.server.admission import AdmissionController
from tinystories.server.app import create_app
from tinystories.server.arguments import ServerArguments
from tinystories.server.engine import Engine, Limits
from tinystories.server.middleware import HEADERS, LARGEST_BODY
from tinystories.server.model_pool import ModelPool
from tinystories.server.schema import BOUNDS


WILD = {"temperature": 2.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
LONG = {"prompt": "Story 7.", "max_tokens": 4000, **WILD}


@pytest.fixture(scope="module")
def checkpoint(counting_run, tmp_path_factory):
    folder = untrained(counting_run, tmp_path_factory.mktemp("served") / "run", context=4096)
    untrained(counting_run, folder / "checkpoint-7", seed=7)
    broken = untrained(counting_run, folder / "checkpoint-9") / "tokenizer.json"
    broken.write_text(broken.read_text(encoding="utf-8").replace('"merges"', '"smerges"'), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(checkpoint):
    with Server(checkpoint) as server:
        yield server


def error(answer: httpx.Response) -> str:
    """The one line that the user sees."""
    message = answer.json()["error"]
    assert message and "\n" not in message and "Traceback" not in answer.text
    return message


def wait_until(holds) -> None:
    """For what another process does soon; pytest's own limit ends what never comes."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_is_a_start_pieces_an_end_and_done(server, checkpoint):
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


def test_a_story_does_not_depend_on_what_else_is_running(server):
    """Guards: mixed streams, and a seed that means something else on a busy server."""
    wishes = [{"prompt": f"Story {i}. one", "seed": i, "max_tokens": 20 + i, "alternatives": i % 3} for i in range(20)]
    alone = [server.generate(**wish)["text"] for wish in wishes]

    async def together() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            answers = (client.post("/generate", json=wish | {"stream": False}) for wish in wishes)
            return [answer.json()["text"] for answer in await asyncio.gather(*answers)]

    assert asyncio.run(together()) == alone
    assert len(set(alone)) == len(alone)


def test_every_checkpoint_of_the_run_is_there_and_they_differ(server):
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


def test_a_seed_that_is_drawn_is_told_and_writes_the_story_again(server):
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


@pytest.mark.parametrize(("body", "field"), MISTAKES, ids=str)
def test_a_wrong_field_is_named_with_its_bounds(body, field, server):
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
    (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 400),
    (b"[" * 20000, 400),
    (b'{"prompt": " \\u0000\\u001b "}', 400),
    (b" " * (LARGEST_BODY + 1), 413),
]


@pytest.mark.parametrize(("body", "status"), RAW, ids=[str(body[:30]) for body, _ in RAW])
def test_a_body_that_is_no_request_is_refused_in_one_line(body, status, server):
    answer = server.client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert error(answer)


def test_a_body_without_an_end_is_cut_off(server):
    """Guards: Content-Length believed, where a chunked body has none."""

    def endless():
        for _ in range(LARGEST_BODY // 1024 + 10):
            yield b" " * 1024

    try:
        answer = server.client.post("/generate", content=endless(), headers={"Content-Type": "application/json"})
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        return  # cut off while it was still sending
    assert answer.status_code == 413


def test_another_content_type_is_no_request(server):
    """Guards: a form of another site, which browsers send without asking."""
    answer = server.client.post("/generate", content='{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422


INERT = (
    "<script>alert(1)</script>",
    "one\x00\x1b[31m two",
    "<|endoftext|>",
    "</s>",
    "\u202eone",
    "one\ufffd",
    "\U0001f98a" * 99,
)


@pytest.mark.parametrize("prompt", INERT)
def test_a_prompt_is_inert(prompt, server):
    found = server.generate(prompt=prompt, max_tokens=5, seed=1)
    assert found["finish_reason"] in ("length", "stop")
    assert prompt[:3] not in found["text"]


def test_two_thousand_emoji_are_told_that_they_do_not_fit(server):
    answer = server.client.post("/generate", json={"prompt": "\U0001f98a" * 2048})
    assert answer.status_code == 422
    assert answer.json()["field"] == "prompt"
    assert "this model reads 4096: shorten it" in error(answer)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.1}, {"temperature": 2.0, "top_k": 0}, {"top_k": 1}, {"top_p": 0.1}]
)
def test_settings_at_their_ends_work(settings, server):
    assert server.generate(prompt="Story", max_tokens=20, **settings)["new_tokens"] > 0


def test_more_than_the_context_is_clamped_and_said(server):
    with server.client.stream("POST", "/generate", json={"prompt": "Story 7.", "max_tokens": 100_000}) as answer:
        start = next(line for line in answer.iter_lines() if line.startswith("data: "))
    found = json.loads(start.removeprefix("data: "))
    assert found["clamped"] and found["max_tokens"] == 4096 - found["prompt_tokens"]


def test_tidy_tidies_what_was_written_and_the_pieces_stay_as_they_were(server):
    events = [
        json.loads(data) for name, data in server.events(**LONG | {"seed": 5, "max_tokens": 60, "tidy": True})[1:-1]
    ]
    written = "".join(event["token"] for event in events[:-1])
    assert events[-1]["text"] != written
    assert written == server.generate(**LONG | {"seed": 5, "max_tokens": 60})["text"]


def test_every_answer_has_the_headers_and_no_other_host(server):
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


def test_a_checkpoint_that_cannot_be_opened_is_nobody_else_s_trouble(server):
    """Guards: one request for a damaged checkpoint that ends the server."""
    answer = server.client.post("/generate", json={"prompt": "Story", "model": "checkpoint-9"})
    assert answer.status_code == 503
    assert error(answer) == "the model checkpoint-9 cannot be opened"
    assert server.generate(prompt="Story", max_tokens=3)["new_tokens"] == 3


def test_openai_s_client_can_ask_for_stories(server, checkpoint):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["run", "checkpoint-7", "checkpoint-9"]
    wish = {"model": "run", "prompt": "Story 7. one", "seed": 3, "max_tokens": 25}
    found = client.completions.create(**wish, logprobs=2)
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    assert found.choices[0].text == written_alone(checkpoint, "Story 7. one", 3, 25, **neutral)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 25
    logprobs = found.choices[0].logprobs
    assert "".join(logprobs.tokens) == found.choices[0].text
    assert all(value <= 0 for value in logprobs.token_logprobs)
    places = zip(logprobs.text_offset, logprobs.tokens, strict=True)
    assert all(found.choices[0].text[place:].startswith(token) for place, token in places)
    chunks = list(client.completions.create(**wish, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == found.choices[0].text
    assert chunks[-1].usage == found.usage
    greedy = [client.completions.create(**wish | {"seed": seed}, temperature=0).choices[0].text for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_openai_s_client_is_told_its_mistakes(server):
    """Guards: a setting that is taken and has no effect."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    wrong = (
        {"n": 2},
        {"best_of": 3},
        {"presence_penalty": 1},
        {"suffix": "end"},
        {"echo": True},
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


def test_a_forged_address_does_not_change_the_rate_and_no_prompt_is_logged(checkpoint):
    """Guards: a limit that a client escapes by writing a header; a diary of what children typed."""
    with Server(checkpoint, "--requests_per_minute", "2") as server:
        answers = [server.client.post("/generate", json=SECRET, headers=forged(i)) for i in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
        assert "more than 2 stories in a minute" in error(answers[2])
        assert server.client.get("/api/info").status_code == 200
        assert server.client.get("/metrics").status_code == 404
        assert SECRET["prompt"] not in server.stop()[1]


def test_a_trusted_proxy_is_believed_and_what_was_asked_for_is_logged_and_counted(checkpoint):
    options = ("--requests_per_minute", "2", "--trusted_proxies", "127.0.0.1", "--log_prompts", "--metrics")
    options += ("--frame_ancestors", "https://huggingface.co")
    with Server(checkpoint, *options) as server:
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
    """A server that writes one story at a time, of one more client who waits."""
    with Server(checkpoint, "--max_running", "1", "--max_waiting", "1", "--metrics") as server:
        yield server


def counted(server: Server, ending: str) -> float:
    line = re.search(rf'tinystories_stories_total{{ending="{ending}"}} (\S+)', server.client.get("/metrics").text)
    return float(line[1]) if line else 0.0


def test_a_client_that_leaves_ends_its_story(narrow):
    """Guards: stories that are written on for nobody, some 4,000 tokens each. Streamed, not streamed, in the queue."""
    with narrow.client.stream("POST", "/generate", json=LONG | {"seed": 1}) as answer:
        pieces = answer.iter_bytes()  # httpx hangs up when this is collected
        next(pieces)
        with pytest.raises(httpx.ReadTimeout):
            narrow.client.post("/generate", json=LONG, timeout=0.05)
        wait_until(lambda: narrow.load() == {"running": 1, "waiting": 0})
    wait_until(lambda: narrow.load()["running"] == 0)
    with pytest.raises(httpx.ReadTimeout):
        narrow.client.post("/generate", json=LONG | {"seed": 1, "stream": False}, timeout=0.2)
    wait_until(lambda: narrow.load()["running"] == 0)
    assert counted(narrow, "cancelled") == 2
    assert counted(narrow, "failed") == 1  # which never began
    assert counted(narrow, "length") == counted(narrow, "stop") == 0


def test_a_full_queue_is_429(narrow):
    """Guards: a limit of one that lets two through."""
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
            assert "waiting already" in error(answer)
    waiting.join(timeout=60)


@pytest.fixture(scope="module")
def strict(checkpoint):
    """A server for stories that take hardly any time, and for clients that do not dawdle."""
    options = {"max_seconds": 0.05, "request_timeout_seconds": 0.5, "max_connections": 40}
    with Server(checkpoint, *(word for name, value in options.items() for word in (f"--{name}", value))) as server:
        yield server


def test_a_story_out_of_time_says_so(strict):
    """Guards: a time-out that looks like a story. OpenAI's clients, which know no such ending, get an error."""
    wait_until(lambda: strict.load() == {"running": 0, "waiting": 0})
    assert strict.generate(**LONG)["finish_reason"] == "timeout"
    client = openai.OpenAI(base_url=f"{strict.url}/v1", api_key="none", max_retries=0)
    wish = {"model": "run", "prompt": LONG["prompt"], "max_tokens": 4000, "extra_body": {"top_k": 50}}
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(**wish)
    assert caught.value.status_code == 504
    with pytest.raises(openai.APIError):
        list(client.completions.create(**wish, stream=True))


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.port)), timeout=60)


def heard(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionResetError:
        return b""


GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_client_that_dawdles_over_its_headers_is_cut_off(sent, strict):
    with connected(strict) as connection:
        connection.sendall(sent)
        assert heard(connection) == b""
    with connected(strict) as connection:  # and so is one that does it with its second request
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(sent or b"G")
        heard(connection)


def test_a_client_that_dawdles_over_its_body_is_told(strict):
    with connected(strict) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_wait_for_its_answer_gets_none(narrow):
    """Guards: a second request in the pipe, behind which the server does not notice that the client leaves."""
    body = json.dumps(LONG).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with connected(narrow) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body + GET)
        assert heard(connection) == b""
    wait_until(lambda: narrow.load() == {"running": 0, "waiting": 0})


def test_what_is_no_http_is_refused_with_the_same_headers(strict):
    for sent in (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 17_000, b"\x16\x03\x01 hello\r\n\r\n"):
        with connected(strict) as connection:
            connection.sendall(sent)
            answer = heard(connection).decode()
        assert answer.startswith("HTTP/1.1 400")
        assert all(f"{name}: {value}\r\n" in answer for name, value in HEADERS.items())


def test_one_address_does_not_take_all_connections(strict):
    """Guards: a server that is full of one client. A quarter of 40 connections is for one address."""
    crowd = [connected(strict) for _ in range(12)]
    answers = [heard(connection).decode() for connection in crowd]
    for connection in crowd:
        connection.close()
    assert sum(answer.startswith("HTTP/1.1 503") and "one address" in answer for answer in answers) >= 2
    assert strict.client.get("/health").status_code == 200


def test_sigterm_ends_the_streams_cleanly_and_the_server_with_them(checkpoint):
    """Guards: connections torn off, and a server that cannot be stopped."""
    with Server(checkpoint, "--shutdown_grace_seconds", "0.2") as server:
        heard: list[str] = []

        def ask() -> None:
            """Story after story, until the server will not write another."""
            ended = ""
            with httpx.Client(base_url=server.url, timeout=120) as client:
                while ended in ("", "length", "stop"):
                    try:
                        answer = client.post("/generate", json=LONG | {"stream": False})
                        ended = answer.json().get("finish_reason", f"status {answer.status_code}")
                    except httpx.ConnectError:
                        ended = "nobody there"
                    except httpx.TransportError as torn:
                        ended = f"torn: {torn!r}"
                    heard.append(ended)

        listeners = [threading.Thread(target=ask) for _ in range(4)]
        for thread in listeners:
            thread.start()
        wait_until(lambda: server.load()["running"])
        status, log = server.stop(signal.SIGTERM)
        for thread in listeners:
            thread.join(timeout=60)
        assert status in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert set(heard) <= {"length", "stop", "cancelled", "status 503", "nobody there"}
        assert "Traceback" not in log


def test_before_the_model_is_there_everything_says_so(checkpoint):
    """Guards: ready before it is. The application without its start stays in the state of a server that loads."""
    arguments = ServerArguments(device="cpu")
    engine = Engine(ModelPool(str(checkpoint), arguments), Limits(1, 1, 1, 1))
    app = create_app(engine, AdmissionController(engine, 10))

    async def answers() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            wish = {"prompt": "Story"}
            return [
                await client.get("/health/live"),
                await client.get("/health/ready"),
                await client.get("/health"),
                await client.get("/api/info"),
                await client.post("/generate", json=wish),
                await client.post("/v1/completions", json=wish | {"model": "run"}),
            ]

    live, *others = asyncio.run(answers())
    assert live.status_code == 200
    for answer in others:
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        assert "the model is being loaded" in answer.text


def test_mistakes_of_the_one_who_starts_it_are_one_line(server, tmp_path, monkeypatch):
    process = run_command("run_server.py", tmp_path / "absent", "--port", "0")
    assert process.returncode == 1
    assert "cannot open" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    assert "give another --host or --port" in mistake(listen, "127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    assert "give another --host or --port" in mistake(listen, "no.such.host.invalid", 0)
    assert "no checkpoint" in mistake(parse, [])
    assert "did you mean port?" in mistake(parse, ["x", "--prot", "1"])
    assert "port" in mistake(parse, ["x", "--port", "99999"])
    assert "dtype" in mistake(parse, ["x", "--dtype", "int8"])
    monkeypatch.setenv("CHECKPOINT_PATH", "runs/mine")
    monkeypatch.setenv("REQUESTS_PER_MINUTE", "3")
    assert parse([])[0] == "runs/mine"
    assert parse([])[1].requests_per_minute == 3
    assert parse(["other", "--requests_per_minute", "4"])[1].requests_per_minute == 4
    monkeypatch.setenv("PORT", "many")
    assert "port" in mistake(parse, ["x"])
