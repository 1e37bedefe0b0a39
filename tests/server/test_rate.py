"""The rate limit: none for programs on this machine unless asked, and one for everybody else."""

import pytest

from helpers.runs import mistake
from helpers.serving import ServerThread, untrained
from tinystories.commands.serve import parse
from tinystories.server.arguments import STORIES_PER_MINUTE
from tinystories.server.rate_limit import RateLimiter, client_key, is_local


SHORT = {"prompt": "Story 7.", "max_tokens": 1, "stream": False}
COMPLETION = {"model": "run", "prompt": "Story 7.", "max_tokens": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("rate") / "run", context=32)


@pytest.fixture(scope="module")
def server(checkpoint):
    with ServerThread(checkpoint) as server:
        yield server


def statuses(server, number: int, **headers: str) -> list[int]:
    return [server.client.post("/generate", json=SHORT, headers=headers).status_code for _ in range(number)]


def limit_of(server, **headers: str) -> int | None:
    return server.client.get("/api/info", headers=headers).json()["limits"]["requests_per_minute"]


@pytest.mark.slow
def test_stories_of_this_machine(server):
    """Guards: one's own server that refuses the eleventh story."""
    assert statuses(server, 50) == [200] * 50 and limit_of(server) is None
    many = server.client.post("/v1/completions", json=COMPLETION | {"prompt": ["Story"] * 32})
    assert many.status_code == 200, "nor is the limit one of the stories of a request"
    page = {"Host": "localhost:7779", "Origin": "http://localhost:7779"}
    assert limit_of(server, **page) is None, "a page of this machine is of this machine"


@pytest.mark.slow
def test_stories_behind_an_unnamed_proxy(server):
    """Guards: visitors of a proxy on this machine, none of whom has a limit. They count as one client."""
    visitors = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in range(STORIES_PER_MINUTE + 1)]
    found = [statuses(server, 1, **visitor)[0] for visitor in visitors]
    assert found == [200] * STORIES_PER_MINUTE + [429] and limit_of(server, **visitors[0]) == STORIES_PER_MINUTE
    assert statuses(server, 2) == [200, 200], "while programs of this machine go on"


@pytest.mark.slow
def test_stories_behind_a_named_proxy(checkpoint):
    """The client is the one that the proxy names, and none is of this machine: not one that the proxy names so, nor one
    that it names not at all."""
    with ServerThread(checkpoint, "--trusted_proxies", "127.0.0.1") as server:
        for client in ({"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "::1"}, {}):
            assert statuses(server, STORIES_PER_MINUTE + 1, **client) == [200] * STORIES_PER_MINUTE + [429]
            assert limit_of(server, **client) == STORIES_PER_MINUTE


@pytest.mark.slow
def test_number_for_everyone(checkpoint):
    """The wait is the same number in the header and in the body, once, and a page can count it down."""
    with ServerThread(checkpoint, "--requests_per_minute", "2") as server:
        assert statuses(server, 2) == [200, 200] and limit_of(server) == 2
        refused = server.client.post("/generate", json=SHORT)
        wait = int(refused.headers["Retry-After"])
        assert refused.status_code == 429 and 1 <= wait <= 60
        assert refused.json() == {"error": "more than 2 stories in a minute from one client", "retry_after": wait}
        refused = server.client.post("/v1/completions", json=COMPLETION)
        wait, found = int(refused.headers["Retry-After"]), refused.json()["error"]
        assert found["message"] == f"more than 2 stories in a minute from one client: try again in {wait} seconds"
        assert found["type"] == "rate_limit_error"


def test_window(monkeypatch):
    """The seconds until the stories asked for fit into the last minute: with one second less, they do not."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    rate = RateLimiter(3)

    def at(second: float) -> tuple[int, int]:
        nonlocal now
        now = second
        return rate.wait("a"), rate.wait("a", 3)

    for second in (0, 10, 20):
        assert at(second)[0] == 0
        rate.count("a")
    assert at(20) == (40, 60) and rate.wait("b", 3) == 0
    assert at(20.5) == (40, 60) and at(59.9) == (1, 21), "rounded up, and never 0 for who must wait"
    assert at(60) == (0, 20) and at(69.9) == (0, 11) and at(70) == (0, 10) and at(80) == (0, 0)
    rate.count("b", 2)
    assert at(81) == (0, 0) and set(rate.times) == {"b"}, "who asked for nothing in a minute is forgotten"
    rate.count("a")
    assert set(rate.times) == {"a", "b"}


def test_clients():
    """An IPv6 network of one customer is one client, and an IPv4 address is one however it is written."""
    keys = [
        client_key(scope(address))
        for address in ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "203.0.113.1", "::ffff:203.0.113.1", "x")
    ]
    assert keys == ["2001:db8::/64", "2001:db8::/64", "2001:db8:0:1::/64", "203.0.113.1", "203.0.113.1", "x"]


def scope(address: str, *headers: tuple[str, str], version: str = "1.1", host: str | None = "localhost:7779") -> dict:
    named = [*headers, *([("host", host)] if host is not None else [])]
    return {
        "type": "http",
        "client": (address, 1),
        "http_version": version,
        "headers": [(name.lower().encode(), value.encode()) for name, value in named],
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::ffff:127.255.255.254"])
def test_addresses_of_this_machine(address):
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:7779", "[::1]", "[::1]:7779"):
        assert is_local(scope(address, host=host))
    assert is_local(scope(address, ("origin", "http://127.0.0.1:7779")))
    assert is_local(scope(address, ("user-agent", "curl/8.0"), ("authorization", "Bearer x")))


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "::ffff:128.0.0.1",
        "126.255.255.255",
        "128.0.0.0",
        "fe80::1",
        "::2",
        "::ffff:10.0.0.1",
        "unknown",
        "",
    ],
)
def test_other_addresses(address):
    """Guards: an address that is compared by its first digits."""
    assert not is_local(scope(address))


@pytest.mark.parametrize(
    "shown",
    [
        {"headers": [("X-Forwarded-For", "203.0.113.1")]},
        {"headers": [("X-Forwarded-For", "")]},
        {"headers": [("X-Forwarded-Proto", "https")]},
        {"headers": [("Forwarded", "for=203.0.113.1")]},
        {"headers": [("Via", "1.1 proxy")]},
        {"headers": [("X-Real-IP", "127.0.0.1")]},
        {"headers": [("X-Client-IP", "203.0.113.1")]},
        {"headers": [("True-Client-IP", "203.0.113.1")]},
        {"headers": [("CF-Connecting-IP", "203.0.113.1")]},
        {"headers": [("Origin", "https://stories.example.com")]},
        {"headers": [("Origin", "null")]},
        {"host": "stories.example.com"},
        {"host": "localhost.example.com:7779"},
        {"host": "127.0.0.1.example.com"},
        {"host": ""},
        {"host": None},
        {"version": "1.0"},
    ],
)
def test_signs_of_a_proxy(shown):
    """Guards: a proxy on this machine, whose every visitor has this machine's address."""
    headers = shown.pop("headers", [])
    assert not is_local(scope("127.0.0.1", *headers, **shown))


def test_no_address():
    """A socket without a peer, such as one of the file system, is nobody known."""
    assert not is_local(scope("127.0.0.1") | {"client": None})


def test_wrong_number():
    assert parse(["x"])[1].requests_per_minute is None
    for wrong in ("0", "-1"):
        assert "requests_per_minute must be at least 1" in mistake(parse, ["x", "--requests_per_minute", wrong])
