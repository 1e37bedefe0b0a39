"""The Host header: pages of other sites do not reach the server by a name of theirs that leads to this machine."""

import pytest

from helpers.runs import mistake
from helpers.serving import ServerThread, untrained
from tinystories.commands.serve import parse
from tinystories.server.arguments import ServerArguments


LOCAL = ("localhost", "localhost:7779", "LocalHost:1", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:7779")
OTHERS = (
    "evil.example",
    "evil.example:7779",
    "localhost.evil.example",
    "evil.example#localhost",
    "localhost@evil.example",
    "127.0.0.1.evil.example",
    "0.0.0.0",
    "10.0.0.1",
    "[::2]",
    "[::1",
    "::1",
    "localhost:port",
    "localhost:123456",
    "",
    "*",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("hosts") / "run", context=32)


def statuses(server: ServerThread, hosts: tuple[str, ...], path: str = "/health/live") -> dict[str, int]:
    return {host: server.client.get(path, headers={"Host": host}).status_code for host in hosts}


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_default(host, checkpoint):
    """Guards: no check at all where the server listens to other machines, as it does in a container."""
    with ServerThread(checkpoint, "--host", host) as server:
        assert set(statuses(server, LOCAL).values()) == {200}
        assert statuses(server, OTHERS) == dict.fromkeys(OTHERS, 400)
        for path in ("/", "/static/app.js", "/api/info", "/v1/models", "/health"):
            answer = server.client.get(path, headers={"Host": "evil.example"})
            assert answer.status_code == 400 and "Content-Security-Policy" in answer.headers
            error = answer.json()["error"]
            assert "--allowed_hosts" in (error["message"] if path.startswith("/v1/") else error)


@pytest.mark.slow
def test_named(checkpoint):
    """Names are added to those of this machine, so that its health check goes on."""
    with ServerThread(
        checkpoint, "--host", "10.1.2.3", "--allowed_hosts", "Stories.example.com, *.example.org,[fe80::1]"
    ) as server:
        allowed = ("stories.example.com", "STORIES.example.com:443", "a.example.org", "a.b.example.org", "[FE80::1]:80")
        refused = (
            "example.com",
            "a.stories.example.com",
            "example.org",
            "xexample.org",
            "example.org.evil.example",
            "[fe80::2]",
        )
        assert set(statuses(server, (*allowed, *LOCAL, "10.1.2.3:7779")).values()) == {200}
        assert statuses(server, refused) == dict.fromkeys(refused, 400)
    with ServerThread(checkpoint, "--allowed_hosts", "*") as server:
        assert statuses(server, ("evil.example", "localhost")) == {"evil.example": 200, "localhost": 200}


def test_names():
    local = ["localhost", "127.0.0.1", "[::1]"]
    assert ServerArguments(host="0.0.0.0").hosts() == ServerArguments(host="::").hosts() == local
    assert ServerArguments(host="box", allowed_hosts="").hosts() == [*local, "box"]
    assert ServerArguments(host="fe80::1", allowed_hosts="a.b").hosts() == [*local, "[fe80::1]", "a.b"]
    for wrong in ("https://a.example", "a.example:7779", "a.*", "a,,b", "*x", "a/b"):
        assert "is not a host name" in mistake(parse, ["x", "--allowed_hosts", wrong])
