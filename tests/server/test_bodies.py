"""Bodies that are not JSON, or whose bytes arrive in an unusual way: by each route, in its form of errors."""

import json
import math

import pytest

from helpers.damaged_requests import asked_of
from helpers.raw_http import answer_to, chunked, connected, heard, next_answer, request, whole
from helpers.serving import ServerThread, untrained
from tinystories.server.middleware import HEADERS, LARGEST_BODY, LARGEST_HEADERS
from tinystories.server.protocol import MOST_CHUNKS
from tinystories.server.strict_json import parse


pytestmark = pytest.mark.slow

ROUTES = ("/generate", "/v1/completions")
ALL = (*ROUTES, "/v1/chat/completions")
SHORT = {"prompt": "Story", "max_tokens": 1, "stream": False}
GOOD = {path: asked_of(path, SHORT | {"model": "run"}) for path in ALL}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    checkpoint = untrained(tmp_path_factory.mktemp("bodies") / "run", context=32)
    with ServerThread(checkpoint, "--request_timeout_seconds", "2") as server:
        yield server
        assert "Traceback" not in server.stop()[1]


def message(path: str, body: dict) -> str:
    """The one line of an error, in the form that the clients of this route expect."""
    if path.startswith("/v1/"):
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["message"]
    return body["error"]


NOT_JSON = {
    "cut off": (b'{"prompt": "Story"', "Expecting"),
    "two values": (b'{"prompt": "Story"} {}', "Extra data"),
    "single quotes": (b"{'prompt': 'Story'}", "Expecting"),
    "NaN": (b'{"prompt": "Story", "temperature": NaN}', "NaN is not a JSON value"),
    "infinity": (b'{"prompt": "Story", "temperature": -Infinity}', "-Infinity is not a JSON value"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}', "not UTF-8 at byte 15"),
    "UTF-16": ('{"prompt": "Story"}'.encode("utf-16"), "not UTF-8 at byte 0"),
    "byte order mark": (b'\xef\xbb\xbf{"prompt": "Story"}', "BOM"),
    "key twice": (b'{"prompt": "Story", "seed": 1, "seed": 2}', "a key appears twice"),
    "key twice, escaped": (b'{"prompt": "Story", "seed": 1, "s\\u0065ed": 2}', "a key appears twice"),
    "key twice, nested": (b'{"prompt": "Story", "logit_bias": {"1": 0, "1": 0}}', "a key appears twice"),
    "deep": (b'{"prompt": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested too deeply"),
    "deep objects": (b'{"a":' * 12_000 + b"1" + b"}" * 1, "nested too deeply"),
    "digits": (b'{"prompt": "Story", "seed": ' + b"9" * 5000 + b"}", "too many digits"),
    "surrogate key": (b'{"prompt": "Story", "\\ud800": 1}', "a key has an incomplete character"),
}


def refusal(server, path: str, body: bytes) -> str:
    """What a body that is refused with 422 is told."""
    answer = server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    return message(path, answer.json())


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(("body", "reason"), NOT_JSON.values(), ids=NOT_JSON)
def test_not_json(path, body, reason, server):
    """422 and the reason, on every route."""
    found = refusal(server, path, body)
    assert found.startswith("the body is not JSON: ") and reason in found


OTHER_JSON = {
    "array": (b'[{"prompt": "Story"}]', "the body must be a JSON object"),
    "string": (b'"Story"', "the body must be a JSON object"),
    "number": (b"1e400", "the body must be a JSON object"),
    "null": (b"null", "the body must be a JSON object"),
    "nothing": (b"", "the body must be a JSON object"),
    "too large": (b'{"prompt": "Story", "model": "run", "temperature": 1e400}', "temperature: "),
    "too large for an integer": (b'{"prompt": "Story", "model": "run", "seed": 1e400}', "seed: "),
    "4000 digits": (b'{"prompt": "Story", "model": "run", "seed": ' + b"9" * 4000 + b"}", "seed: "),
    "surrogate": (b'{"prompt": "Story \\udc00", "model": "run"}', "prompt: has an incomplete character"),
    "surrogate name": (b'{"prompt": "Story", "model": "\\ud800"}', "model: no model has this name"),
    "unknown field": (b'{"prompt": "Story", "model": "run", "\\u0000": 1}', "the body has an unknown field"),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(("body", "reason"), OTHER_JSON.values(), ids=OTHER_JSON)
def test_other_json(path, body, reason, server):
    assert reason in refusal(server, path, body)


def test_json_of_clients():
    """Guards: refusing what is JSON. Escaped pairs of surrogates are one character; numbers keep their types."""
    text = '{"prompt": "\\ud83e\\udd8a é \\u0000", "a": [1, -0.5e3, true, null, {}], "b": {"a": 1}}'
    found = parse(text.encode())
    assert found == json.loads(text) and found["prompt"] == "\U0001f98a é \x00"
    assert type(parse(b"1")) is int and math.isinf(parse(b"1e400"))
    assert parse(b"[" * 100 + b"]" * 100)


@pytest.mark.parametrize("path", ALL)
def test_content_type(path, server):
    """Only JSON, with any charset written there: it is read as UTF-8."""
    body = json.dumps(GOOD[path]).encode()
    for kind, status in {
        "application/json": 200,
        "application/json; charset=utf-16": 200,
        "APPLICATION/JSON": 200,
        "text/plain": 422,
        "application/x-www-form-urlencoded": 422,
        "multipart/form-data; boundary=x": 422,
        "json": 422,
        "": 422,
    }.items():
        assert server.client.post(path, content=body, headers={"Content-Type": kind}).status_code == status, kind
    assert server.client.post(path, content=body).status_code == 422


def in_chunks(fields: dict, chunks: int, size: int = 1) -> list[bytes]:
    """The body, filled up with spaces to `chunks` pieces of `size` bytes."""
    body = json.dumps(fields).encode().ljust(chunks * size)
    assert len(body) == chunks * size
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("chunks", "size", "status"),
    [
        (MOST_CHUNKS - 1, 1, 200),
        (MOST_CHUNKS, 1, 200),
        (MOST_CHUNKS + 1, 1, 413),
        (60_000, 1, 413),
        (MOST_CHUNKS, LARGEST_BODY // MOST_CHUNKS, 200),
        (MOST_CHUNKS, LARGEST_BODY // MOST_CHUNKS + 1, 413),
    ],
)
def test_number_of_chunks(path, chunks, size, status, server):
    """Guards: a body of one-byte chunks, each of which takes as long to read as hundreds of bytes."""
    body = chunked(in_chunks(GOOD[path], chunks, size))
    found = answer_to(server, request(body, "Transfer-Encoding: chunked", "Connection: close", path=path))
    if chunks > 10 * MOST_CHUNKS and found is None:
        return  # refused, and closed before all was sent
    assert found[0] == status
    if status != 200:
        answer = found[1]
        words = f"more than {MOST_CHUNKS} chunks" if chunks > MOST_CHUNKS else f"larger than {LARGEST_BODY} bytes"
        assert words in message(path, answer)


def test_chunks_are_counted_for_each_request(server):
    """Guards: a connection that is refused after many requests of few chunks."""
    body = chunked(in_chunks(SHORT, MOST_CHUNKS - 300))
    with connected(server) as connection:
        for _ in range(3):
            connection.sendall(request(body, "Transfer-Encoding: chunked"))
            assert next_answer(connection)[0] == 200


AMBIGUOUS = {
    "both": ["Content-Length: 60", "Transfer-Encoding: chunked"],
    "both, other order": ["Transfer-Encoding: chunked", "Content-Length: 60"],
    "negative": ["Content-Length: -1"],
    "plus": ["Content-Length: +60"],
    "hexadecimal": ["Content-Length: 0x3c"],
    "empty": ["Content-Length: "],
    "two": ["Content-Length: 60", "Content-Length: 61"],
    "list": ["Content-Length: 60, 61"],
    "very long": ["Content-Length: " + "9" * 30],
    "unknown coding": ["Transfer-Encoding: gzip"],
    "two codings": ["Transfer-Encoding: gzip, chunked"],
    "twice chunked": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "hidden": ["Transfer-Encoding : chunked"],
    "two hosts": ["Host: localhost", "Content-Length: 60"],
}


@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_length(headers, server):
    """400, and the connection is closed. Guards: a request hidden in the body of another (request smuggling)."""
    body = chunked([json.dumps(SHORT).encode()])
    assert len(body) > 60
    status, answer = answer_to(server, request(body, *headers))
    assert status == 400 and answer == {"error": "this is not an HTTP request"}


@pytest.mark.parametrize("path", ROUTES)
def test_length_of_the_body(path, server):
    """Too large is refused before the body arrives; one that does not arrive is refused in time."""
    status, answer = answer_to(server, request(b"", f"Content-Length: {LARGEST_BODY + 1}", path=path))
    assert status == 413 and "larger than" in message(path, answer)
    for sent in (
        request(b"{", "Content-Length: 50", path=path),
        request(b"1\r\n", "Transfer-Encoding: chunked", path=path),
    ):
        status, answer = answer_to(server, sent)
        assert status == 408 and "did not arrive within 2 seconds" in message(path, answer)
    longer = request(b"{}extra", "Content-Length: 2", path=path)
    assert answer_to(server, longer) is None, "what follows the length is not taken for another request"


@pytest.mark.parametrize("sent", [b"zz\r\n", b"-1\r\n", b"1\r\nxy\r\n", b"1" * 50 + b"\r\n", b"1;" + b"a" * 20_000])
def test_invalid_chunk(sent, server):
    """400, or 431 for an extension without an end; the request that waited for the rest ends quietly."""
    status, answer = answer_to(server, request(sent, "Transfer-Encoding: chunked", path="/v1/completions"))
    assert status in (400, 431) and message("/v1/completions", answer)


def test_flood_of_headers(server):
    """431 once the headers are too large, whether they end or not, and whether in one packet or in many."""
    line = b"A: b\r\n"
    for number in (LARGEST_HEADERS // len(line) + 10, 60_000):
        for end in (b"", b"\r\n"):
            answer = answer_to(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + line * number + end)
            if answer is None and number == 60_000:
                continue  # refused, and closed before all was sent
            assert answer == (431, {"error": f"the headers are larger than {LARGEST_HEADERS} bytes"})


def test_headers_of_a_refusal(server):
    """Guards: an error page without the security headers; advice to try again what will be refused again."""
    with connected(server) as connection:
        connection.sendall(request(b"", "Content-Length: -1"))
        head = heard(connection).partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert {f"{name}: {value}" for name, value in HEADERS.items()} < set(head)
    assert "Connection: close" in head and not [line for line in head if line.startswith("Retry-After")]


@pytest.mark.parametrize("path", ALL)
def test_good_requests(path, server):
    status, answer = answer_to(server, whole(GOOD[path], "Connection: close", path=path))
    assert status == 200 and ("text" in answer or "choices" in answer)
