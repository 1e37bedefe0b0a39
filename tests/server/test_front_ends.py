"""Chat front ends as they ask: what Open WebUI, LibreChat and `llm` send is answered, or refused with one line.

The requests are those that these programs sent, or written after their sources. benchmarks/clients.py runs the first
and the last themselves.

- open-webui/open-webui
- danny-avila/LibreChat, whose requests are those of LangChain's client with the id of a user
- simonw/llm, llm/default_plugins/openai_models.py
"""

import json

import httpx
import pytest

from helpers.serving import ServerThread, events_of, untrained
from tinystories.server.chat import Message, named, story_so_far
from tinystories.server.events import Token


pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
BEARER = {"Authorization": "Bearer sk-anything"}
BEGINNING = "Story 7. one two"
ENOUGH = {"seed": 1, "top_k": 50}  # among 50 the end of a story is not, so that its length is the limit
TITLE = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    '### Output:\nJSON format: { "title": "your concise title here" }\n'
    "### Chat History:\n<chat_history>\nUSER: Story 7. one two\nASSISTANT: three four\n</chat_history>"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    checkpoint = untrained(tmp_path_factory.mktemp("front ends") / "run", context=512)
    with ServerThread(checkpoint) as server:
        yield server
        assert "Traceback" not in server.stop()[1]


def chat(server, asked: list[dict] | str, **fields) -> httpx.Response:
    """asked: the messages, or the only one."""
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    body = {"model": "run", "messages": messages, "max_tokens": 8} | ENOUGH | fields
    return server.client.post(CHAT, json=body, headers=BEARER)


def answered(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["object"] == "chat.completion" and found["choices"][0]["finish_reason"] in ("stop", "length")
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    return found["choices"][0]["message"]["content"]


def streamed(server, body: dict) -> tuple[str, list[dict]]:
    """The text, and all events but the last, which is [DONE]."""
    with server.client.stream("POST", CHAT, json=body, headers=BEARER) as answer:
        assert answer.status_code == 200, answer.read()
        *events, (_, last) = events_of(answer)
    assert last == "[DONE]"
    found = [json.loads(data) for _, data in events]
    choices = [choice for event in found for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices), found


def read_as(server, text: str, **fields) -> str:
    """What is written after this text, by the route that reads it as it is."""
    body = {"model": "run", "prompt": text, "max_tokens": 8} | ENOUGH | fields
    return server.client.post("/v1/completions", json=body).json()["choices"][0]["text"]


def refused(answer: httpx.Response) -> str:
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/"])
def test_list_of_models(path, server):
    """Open WebUI asks for the models of a connection, with a key, before it shows any."""
    answer = server.client.get(path, headers=BEARER | {"Content-Type": "application/json"})
    (model,) = answer.json()["data"]
    assert answer.status_code == 200 and answer.json()["object"] == "list"
    assert model["id"] == "run" and model["object"] == "model" and isinstance(model["created"], int)
    head = server.client.head(path, headers=BEARER)
    assert (
        head.status_code == 200 and head.content == b"" and int(head.headers["Content-Length"]) == len(answer.content)
    )


def test_head(server):
    """Guards: HEAD that is 405 or sends a body, and a connection that is closed after it."""
    for path in ("/", "/health", "/api/info", "/docs", "/static/app.js", "/v1/models/run", "/favicon.ico"):
        assert server.client.head(path).status_code == 200 and not server.client.head(path).content, path
    assert server.client.head("/generate").status_code == 405
    assert server.client.head("/v1/models/other").status_code == 404


def test_other_methods(server):
    """Guards: "Method Not Allowed" for whoever opens the address of a route in a browser."""
    answer = server.client.get(CHAT)
    assert answer.status_code == 405 and answer.headers["Allow"] == "POST"
    assert answer.json()["error"]["message"] == "this route answers POST, and not this method; GET /docs describes it"
    for path in ("/docs", "/static/app.js"):
        assert server.client.post(path).json()["error"].startswith("this route answers GET"), path


def test_base_urls(server):
    """Each slip in the base URL is told apart."""
    wrong = {
        ("POST", "/chat/completions"): "the base URL of OpenAI's clients ends in /v1",
        ("GET", "/models"): "the base URL of OpenAI's clients ends in /v1",
        ("GET", "/v1/v1/models"): "has /v1 twice",
        ("GET", "/v1/v1"): "has /v1 twice",
        ("GET", "/v1"): "GET /v1/models, POST /v1/completions, POST /v1/chat/completions",
        ("GET", "/v1/"): "of OpenAI's, this server has",
        ("POST", "/v1/embeddings"): "of OpenAI's, this server has",
        ("GET", "/api/tags"): "not Ollama's",
        ("POST", "/api/chat"): "not Ollama's",
        ("GET", "/nothing"): "GET /docs lists those of this server",
    }
    for (method, path), reason in wrong.items():
        answer = server.client.request(method, path, headers=BEARER)
        error = answer.json()["error"]
        assert answer.status_code == 404, path
        assert reason in (error["message"] if path.startswith("/v1") else error), path


TOOL = {"type": "function", "function": {"name": "get_current_timestamp", "parameters": {"type": "object"}}}


def test_open_webui(server):
    """A conversation: tools of its own in each request, an answer of which the white space around it was taken away, a
    system prompt that is not read."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": BEGINNING},
    ]
    body = {"model": "run", "messages": messages, "stream": True, "tools": [TOOL] * 36}
    text, events = streamed(server, body | {"max_tokens": 8} | ENOUGH)
    assert text == read_as(server, BEGINNING)
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]
    messages += [{"role": "assistant", "content": "named Tom."}, {"role": "user", "content": "Then"}]
    found = chat(server, messages, tools=[TOOL], max_tokens=1)
    assert answered(found) == read_as(server, f"{BEGINNING} named Tom. Then", max_tokens=1)
    plain = chat(server, f"{BEGINNING} named Tom. Then", max_tokens=1).json()["usage"]
    assert found.json()["usage"] == plain


@pytest.mark.parametrize(
    ("asked", "answer", "read"),
    [
        ("a fox", "ran", "a fox ran"),
        ("a fox", " ran", "a fox ran"),
        ("a fox", "\nIt", "a fox\nIt"),
        ("a fox.", "It ran", "a fox. It ran"),
        ("a fox.\n", "It ran", "a fox. It ran"),
        ("a fox", ", red", "a fox, red"),
        ("a fox", "'s tail", "a fox's tail"),
        ("a fox", "...", "a fox..."),
        ("a fox", "-like", "a fox-like"),
        ("a fox", "", "a fox"),
        ('"Run!"', "it said", '"Run!" it said'),
        ('a fox said, "', "Run!", 'a fox said, "Run!'),
        ("a fox said,", '"Run!"', 'a fox said, "Run!"'),
        ("He: “Run!”", "“No”", "He: “Run!” “No”"),
        ('"a fox', '" is read', '"a fox" is read'),
        ("(a fox)", "(red)", "(a fox) (red)"),
        ("a fox-", "like", "a fox-like"),
        ("7", "8 9", "7 8 9"),
        ("从前有", "一只狐狸", "从前有一只狐狸"),
        ("été là", "était", "été là était"),
        ("", "A fox", "A fox"),
    ],
)
def test_stripped_answers(asked, answer, read):
    """Guards: "a foxran" from a front end that takes away the space that an answer begins with, and a space before
    what was answered without one."""
    messages = [Message(role="user", content=asked), Message(role="assistant", content=answer)]
    assert story_so_far(messages) == read


def test_line_end_before_an_answer():
    lines = [Message(role="assistant", content=text) for text in ("A fox ran.\n", "It was red.")]
    assert story_so_far(lines) == "A fox ran.\nIt was red."


def test_settings_of_open_webui(server):
    """The settings of a chat that a user may set, and the empty ones that are sent all the same."""
    settings = {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.1, "stop": ["\n\n\n"]}
    settings |= {"max_tokens": 5, "seed": 42, "logit_bias": {"5": -10}, "top_k": 40, "min_p": 0.05}
    assert answered(chat(server, BEGINNING, **settings)) == answered(chat(server, BEGINNING, **settings))
    of_pipelines = {"name": "Ann", "id": "1", "email": "ann@example.org", "role": "user"}
    labels = {"user": of_pipelines, "metadata": {"task": "x", "chat_id": None}, "chat_id": "c", "session_id": "s"}
    nothing = dict.fromkeys(["tools", "tool_choice", "response_format", "reasoning_effort", "logit_bias", "keep_alive"])
    empty = {"tools": [], "functions": [], "files": [], "tool_ids": [], "logit_bias": {}, "background_tasks": None}
    plain = answered(chat(server, BEGINNING))
    neutral = {"function_call": "auto", "functions": [{"name": "f"}], "service_tier": "default"}
    for fields in (labels, nothing, empty, neutral):
        assert answered(chat(server, BEGINNING, **fields)) == plain


def test_titles_and_tags(server):
    """An instruction is text like any other: it is continued, to the limit that is given, and no title is invented."""
    answer = chat(server, TITLE, max_tokens=None, max_completion_tokens=20, stream=False)
    assert answered(answer) == read_as(server, TITLE, max_tokens=20)
    assert answer.json()["usage"]["completion_tokens"] == 20
    assert "and this model reads 512: shorten it, or begin a new chat" in refused(chat(server, TITLE + " one" * 400))


def test_librechat(server):
    """LangChain's client, with the id of the user; titles come from the same route without streaming."""
    body = {"model": "run", "user": "65f0c0ffee", "stream": True, "stream_options": {"include_usage": True}}
    body |= {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "max_tokens": 8, "n": 1}
    parts = [{"type": "text", "text": BEGINNING, "cache_control": {"type": "ephemeral"}}]
    assistant = {"role": "assistant", "content": " three", "tool_calls": None, "reasoning_content": "A count."}
    messages = [{"role": "user", "content": parts}, assistant | {"name": None, "additional": None, "id": "msg_1"}]
    text, _ = streamed(server, body | {"messages": messages} | ENOUGH)
    assert text == read_as(server, f"{BEGINNING} three"), "an answer at the end is continued where it stopped"


def test_llm(server):
    """A conversation of `llm chat`: every earlier prompt and answer, and a system prompt again where it changes."""
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": BEGINNING},
        {"role": "assistant", "content": " three."},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "four"},
    ]
    body = {"model": "run", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    text, events = streamed(server, body | {"max_tokens": 8} | ENOUGH)
    assert text == read_as(server, f"{BEGINNING} three. four") and events[-1]["usage"]["prompt_tokens"] > 4
    messages[2]["content"] = " three.\n"
    assert answered(chat(server, messages)) == read_as(server, f"{BEGINNING} three.\nfour"), "no space after a line end"


IMAGE = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
SILENTLY_WRONG = {
    "a tool": (
        {"tools": [TOOL], "tool_choice": "required"},
        "tool_choice: not supported: this model continues stories",
    ),
    "this tool": ({"tools": [TOOL], "tool_choice": TOOL}, "tool_choice: not supported"),
    "this function": ({"functions": [{}], "function_call": {"name": "f"}}, "function_call: not supported"),
    "json": ({"response_format": {"type": "json_object"}}, "response_format: not supported"),
    "reasoning": ({"reasoning_effort": "high"}, "reasoning_effort: not supported: this model does not reason"),
    "verbosity": ({"verbosity": "high"}, "verbosity: not supported: max_tokens limits the length"),
    "0 for false": ({"store": 0}, "store: not supported"),
    "text and more": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "image_url": "x"}]}]},
        "a part of a message must be text",
    ),
    "temperature": (
        {"temperature": 0.0099},
        "temperature: must be 0, for always the likeliest token, or at least 0.01",
    ),
    "image": ({"messages": [{"role": "user", "content": IMAGE}]}, "this model reads no images, audio or files"),
    "tool call": (
        {"messages": [{"role": "user", "content": "a"}, CALL]},
        "messages[1].tool_calls: not supported: this model continues stories and calls no tools: begin a new chat",
    ),
    "function call": (
        {"messages": [{"role": "assistant", "content": "a", "function_call": {"name": "f"}}]},
        "messages[0].function_call: not supported",
    ),
    "tool answer": (
        {"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]},
        "messages[0].role: input should be 'system', 'developer', 'user' or 'assistant'",
    ),
    "no content": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]},
        "messages[1].content: field required",
    ),
    "not a message": ({"messages": ["a"]}, "messages[0]: input should be a valid dictionary"),
    "a part's type": (
        {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
        "messages[0].content: field required",
    ),
    "unknown": (
        {"num_ctx": 4096},
        "unknown field num_ctx: leave it out; GET /docs lists the known ones",
    ),
    "an empty object": ({"guided_json": {}}, "unknown field guided_json"),
    "false": ({"add_special_tokens": False}, "unknown field add_special_tokens"),
    "unknown within": ({"messages": [{"role": "user", "content": "a", "prefix": True}]}, "unknown field prefix"),
    "not a name": ({"a\nb": 1}, "the body has an unknown field: leave it out"),
    "long name": ({"a" * 51: 1}, "the body has an unknown field: leave it out"),
    "other model": ({"model": "gpt-4"}, "model: no model has this name; this server has run"),
    "top_p": ({"top_p": 0}, "top_p: must be above 0, and at most 1"),
    "more top_p": ({"top_p": 1.01}, "top_p: must be between 0 and 1"),
    "usage of what": ({"stream_options": {"continuous_usage_stats": True}}, "unknown field continuous_usage_stats"),
    "long": ({"messages": [{"role": "user", "content": "a" * 2049}]}, "characters: begin a new chat, or send fewer"),
}


@pytest.mark.parametrize(("fields", "reason"), SILENTLY_WRONG.values(), ids=SILENTLY_WRONG)
def test_refused(fields, reason, server):
    """Guards: an answer that is not what was asked for, as if it were."""
    assert reason in refused(chat(server, "Story", **fields))


def test_bounds_that_are_allowed(server):
    """The lowest temperature; and the seed after the largest is the first."""
    assert answered(chat(server, "a", temperature=0.01)) == answered(chat(server, "a", temperature=0))
    last = chat(server, BEGINNING, seed=2**53 - 1, n=2).json()["choices"]
    assert last[1]["message"]["content"] == answered(chat(server, BEGINNING, seed=0))


def test_bytes_of_a_special_token():
    """null, as OpenAI has it for a token without bytes, and not an empty list."""
    assert named(Token("<|eos|>", b"", "", end=True), -1.0)["bytes"] is None
    assert named(Token("a", b"a", "a"), -1.0)["bytes"] == [97]


def test_codes(server):
    """By these, and not by its text, a client tells errors apart."""
    assert chat(server, "a", model="gpt-4").json()["error"]["code"] == "model_not_found"
    assert "code" not in server.client.post("/generate", json={"prompt": "a", "model": "gpt-4"}).json()
    for messages in ([{"role": "system", "content": "You are a poet."}], [{"role": "user", "content": None}]):
        answer = chat(server, messages)
        assert answer.status_code == 400 and "a story needs a beginning" in answer.json()["error"]["message"]


def test_beyond_the_context(server):
    """The beginning is refused, with the name by which clients know this error; the end is cut and says so."""
    answer = chat(server, "one," * 300)
    assert "this model reads 512" in refused(answer) and answer.json()["error"]["code"] == "context_length_exceeded"
    found = chat(server, BEGINNING, max_tokens=None).json()
    assert found["usage"]["total_tokens"] == 512 and found["choices"][0]["finish_reason"] == "length"
    assert "code" not in server.client.post("/generate", json={"prompt": "one," * 300, "stream": False}).json()
