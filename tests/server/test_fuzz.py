"""Generated bodies: no answer of 5xx, none that hangs, and afterwards the server generates the same story as before.

FUZZ_BODIES sets how many of each kind are tried. Before a release, try 10,000:

    FUZZ_BODIES=10000 python -m pytest tests/server/test_fuzz.py -n 0

FUZZ_SEED draws other requests for `test_damaged_requests`, which prints how often each status was answered (-s):

    FUZZ_BODIES=5000 FUZZ_SEED=1 python -m pytest tests/server/test_fuzz.py -n 0 -s -k damaged
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from helpers.damaged_requests import FIELDS, PATHS, asked_of, damaged_request
from helpers.raw_http import connected, heard
from helpers.serving import ServerThread, untrained


BODIES = int(os.environ.get("FUZZ_BODIES", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
AT_ONCE = 8  # connections
DOCUMENTED = {200, 400, 404, 405, 408, 413, 422, 431}  # of AdmissionController.REFUSALS, those without much load
SETTINGS = settings(
    max_examples=BODIES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ_BODIES" not in os.environ,
)

anything = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
names = some.sampled_from(FIELDS) | some.text()


def bodies(path: str):
    good = asked_of(path, {"prompt": "Story", "max_tokens": 2, "model": "run"})
    nearly = some.dictionaries(names, anything, max_size=6).map(lambda body: good | body)
    return some.binary(max_size=300) | (anything | nearly).map(lambda body: json.dumps(body).encode())


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    checkpoint = untrained(tmp_path_factory.mktemp("fuzzed") / "run", context=32)
    with ServerThread(checkpoint, "--request_timeout_seconds", "2") as server:
        before = server.generate(prompt="Story 7.", seed=1)
        yield server
        after = server.generate(prompt="Story 7.", seed=1)
        assert after["text"] == before["text"]
        assert server.load() == {"running": 0, "waiting": 0}
        assert "Traceback" not in server.stop()[1]


@pytest.mark.parametrize("path", PATHS)
def test_generated_bodies(path, server):
    @SETTINGS
    @given(body=bodies(path))
    def send(body: bytes) -> None:
        answer = server.client.post(path, content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code in (200, 400, 413, 422), answer.text
        if answer.status_code != 200:
            found = answer.json()["error"]
            message = found if isinstance(found, str) else found["message"]
            assert message and "\n" not in message and len(message) < 300

    send()


def test_damaged_requests(server):
    """Byte by byte over a socket: no answer of 5xx, and every other one is complete and documented."""
    draw = random.Random(SEED)
    requests = [damaged_request(draw) for _ in range(BODIES)]

    def status(request: bytes) -> int | None:
        """None: the connection was closed without an answer."""
        with connected(server) as connection:
            try:
                connection.sendall(request)
            except (ConnectionResetError, BrokenPipeError):
                return None
            answer = heard(connection)
        if not answer:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):  # the client may go on
            head, _, body = body.partition(b"\r\n\r\n")
        found = int(head.split()[1])
        assert found < 500 and found in DOCUMENTED, (request[:2000], answer[:2000])
        if found != 200:
            error = json.loads(body)["error"]
            text = error["message"] if isinstance(error, dict) else error
            assert text and "\n" not in text and len(text) < 300, (request[:2000], answer[:2000])
        return found

    with ThreadPoolExecutor(AT_ONCE) as threads:
        counts = Counter(threads.map(status, requests))
    shown = {
        "closed" if found is None else found: counts[found] for found in sorted(counts, key=lambda each: each or 0)
    }
    print(f"\n{BODIES} requests of seed {SEED}: {shown}")
    assert counts[200] > BODIES / 20 and counts[422] > BODIES / 5 and counts[None] < BODIES / 5, shown


def test_openapi_description(server, tmp_path):
    """Answers match the OpenAPI description: statuses, content types and schemas."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = [
        "--checks",
        checks,
        "--max-examples",
        str(max(20, BODIES // 15)),
        "--seed",
        "1",
        "--request-timeout",
        "60",
    ]
    process = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *options, "--no-color"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
