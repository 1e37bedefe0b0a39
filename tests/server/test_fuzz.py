"""Generated bodies: no answer of 5xx, none that hangs, and afterwards the server generates the same story as before.

FUZZ_BODIES sets how many of each kind are tried. Before a release, try 10,000:

    FUZZ_BODIES=10000 python -m pytest tests/server/test_fuzz.py -n 0
"""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from helpers.serving import ServerThread, untrained
from tinystories.server.schema import BOUNDS


BODIES = int(os.environ.get("FUZZ_BODIES", "300"))
SETTINGS = settings(
    max_examples=BODIES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ_BODIES" not in os.environ,
)
PATHS = ("/generate", "/v1/completions")

anything = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
names = (
    some.sampled_from([*BOUNDS, "model", "preset", "stream", "tidy", "stop", "logprobs", "n", "stream_options"])
    | some.text()
)
nearly = some.dictionaries(names, anything, max_size=6).map(
    lambda body: {"prompt": "Story", "max_tokens": 2, "model": "run"} | body
)
bodies = some.binary(max_size=300) | (anything | nearly).map(lambda body: json.dumps(body).encode())


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    checkpoint = untrained(tmp_path_factory.mktemp("fuzzed") / "run", context=32)
    with ServerThread(checkpoint, "--max_seconds", "20") as server:
        before = server.generate(prompt="Story 7.", seed=1)
        yield server
        after = server.generate(prompt="Story 7.", seed=1)
        assert after["text"] == before["text"]
        assert server.load() == {"running": 0, "waiting": 0}
        assert "Traceback" not in server.stop()[1]


@pytest.mark.parametrize("path", PATHS)
def test_generated_bodies(path, server):
    @SETTINGS
    @given(body=bodies)
    def send(body: bytes) -> None:
        answer = server.client.post(path, content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code in (200, 400, 413, 422), answer.text
        if answer.status_code != 200:
            found = answer.json()["error"]
            message = found if isinstance(found, str) else found["message"]
            assert message and "\n" not in message and len(message) < 300

    send()


def test_openapi_description(server, tmp_path):
    """Answers match the OpenAPI description: statuses, content types and schemas."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = [
        "--checks",
        checks,
        "--max-examples",
        str(max(20, BODIES // 10)),
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
