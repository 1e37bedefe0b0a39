"""Pages of other sites read this server's answers only where their origin is named (CORS)."""

import pytest

from helpers.serving import ServerThread, untrained
from tinystories.server.middleware import HEADERS, LARGEST_BODY


pytestmark = pytest.mark.slow

NAMED, OTHER = "http://localhost:3000", "http://localhost:3001"
BODY = {"model": "run", "prompt": "Story", "max_tokens": 2}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("origins") / "run", context=32)


@pytest.fixture(scope="module")
def server(checkpoint):
    with ServerThread(checkpoint, "--allowed_origins", f"https://app.example.org,{NAMED}") as server:
        yield server


def cors(answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control")}


@pytest.mark.parametrize("origin", [NAMED, "https://app.example.org"])
def test_named_origin(origin, server):
    """Stories, streams, and errors of every layer can be read; cookies are never allowed."""
    post = {"headers": {"Origin": origin}}
    answers = [
        server.client.post("/v1/completions", json=BODY, **post),
        server.client.post("/v1/completions", json=BODY | {"stream": True}, **post),
        server.client.post("/v1/completions", json={}, **post),
        server.client.post("/v1/nothing", json={}, **post),
        server.client.post("/v1/completions", content=b" " * (LARGEST_BODY + 1), **post),
        server.client.get("/api/info", **post),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 404, 413, 200]
    for answer in answers:
        assert cors(answer) == {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "Retry-After",
        }
        assert "Origin" in answer.headers["Vary"]
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_preflight(server):
    """Before a request with JSON a browser asks whether it may send it, with the headers of OpenAI's client."""
    answer = server.client.options("/v1/chat/completions", headers={"Origin": NAMED, **PREFLIGHT})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == NAMED
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "x-stainless-os"} <= allowed
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in answer.headers
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    deleted = PREFLIGHT | {"Origin": NAMED, "Access-Control-Request-Method": "DELETE"}
    answer = server.client.options("/v1/models/run", headers=deleted)
    assert answer.status_code == 400 and "not allowed" in answer.json()["error"]


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "*", "http://localhost:3000.evil.example", "https://localhost:3000", ""]
)
def test_other_origin(origin, server):
    """Guards: an origin that is compared by its beginning or its name."""
    for headers in ({"Origin": origin}, {"Origin": origin, **PREFLIGHT}):
        answer = server.client.options("/v1/completions", headers=headers)
        assert answer.status_code == 405 and not cors(answer)
    answer = server.client.post("/v1/completions", json=BODY, headers={"Origin": origin})
    assert answer.status_code == 200 and not cors(answer)


def test_off_by_default(checkpoint):
    with ServerThread(checkpoint) as server:
        for answer in (
            server.client.options("/v1/completions", headers={"Origin": NAMED, **PREFLIGHT}),
            server.client.post("/v1/completions", json=BODY, headers={"Origin": NAMED}),
        ):
            assert not cors(answer) and answer.status_code in (200, 405)
