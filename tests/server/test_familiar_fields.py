"""Fields of other servers' requests: each is answered with the field of this one, and that is taken."""

import pytest

from helpers.serving import ServerThread, untrained
from tinystories.config.familiar import REQUEST_FIELDS
from tinystories.server.chat import ChatBody
from tinystories.server.completions import CompletionBody
from tinystories.server.schema import GenerateBody


GOOD = {
    "/generate": {"prompt": "Story", "max_tokens": 2, "stream": False},
    "/v1/completions": {"model": "run", "prompt": "Story", "max_tokens": 2},
    "/v1/chat/completions": {"model": "run", "messages": [{"role": "user", "content": "Story"}], "max_tokens": 2},
}
BODIES = {"/generate": GenerateBody, "/v1/completions": CompletionBody, "/v1/chat/completions": ChatBody}
VALUES = {"max_tokens": 2, "temperature": 0.9, "repetition_penalty": 1.1, "seed": 1, "stream": False, "prompt": "Story"}
VALUES |= {"stop": ["."], "n": 1}
ROWS = [pytest.param(path, row, id=f"{path}-{row.names[0]}") for path in REQUEST_FIELDS for row in REQUEST_FIELDS[path]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ServerThread(untrained(tmp_path_factory.mktemp("fields") / "run", context=32)) as server:
        yield server


def told(path: str, answer: dict) -> str:
    return answer["error"]["message"] if path.startswith("/v1/") else answer["error"]


@pytest.mark.parametrize(("path", "row"), ROWS)
def test_every_field(path, row, server):
    """In place of the field here where it has one, as a client of another server would send it."""
    for name in row.names:
        assert name not in BODIES[path].model_fields, "it is a field here"
        body = {key: value for key, value in GOOD[path].items() if key != row.here} | {name: VALUES.get(row.here, "x")}
        answer = server.client.post(path, json=body)
        assert answer.status_code == 422
        message = told(path, answer.json())
        said = row.say or f"here it is called {row.here}"
        assert message == f"the body has an unknown field {name}: {said}"
    if row.here:
        answer = server.client.post(path, json=GOOD[path] | {row.here: VALUES[row.here]})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", REQUEST_FIELDS)
def test_a_field_has_one_answer(path):
    names = [name for row in REQUEST_FIELDS[path] for name in row.names]
    assert len(set(names)) == len(names)


def test_other_fields_are_not_repeated(server):
    """A name that is not ours is not put into an answer."""
    answer = server.client.post("/generate", json={"prompt": "Story", "<script>": 1}).json()
    assert answer["error"] == "the body has an unknown field: leave it out; GET /docs lists the known ones"
