"""A judge over HTTP: failures of the server are counted or reported, and never become grades."""

import contextlib
import json
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers.runs import mistake
from tinystories.evaluation.judge.chat_client import Endpoint
from tinystories.evaluation.judge.judge import GRADES, endpoint_from_environment, judge, parse_grades
from tinystories.evaluation.text.samples import Sample


KEY = "sk-very-secret"
GOOD = "Grammar: 8/10\nCreativity: 5/10\nConsistency: 7/10\nPlot: 6/10\nAge group: C"
MISBEHAVIOUR = {  # by the case named in the story: what the server does at each attempt, before it answers correctly
    "busy": [(429, {"Retry-After": "0"}), (429, {"Retry-After": "0"})],
    "dated": [(503, {"Retry-After": formatdate(0, usegmt=True)})],
    "patience": [(429, {"Retry-After": "86400"})],
    "crash": [(500, {})],
    "dropped": ["drop", "drop"],
    "silent": ["silent"],
    "dripping": ["drip"],
    "paced": [(429, {"Retry-After": "0.5"})],  # and the same for every attempt that comes earlier than that
    "malformed": ["<html>", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'],
    "down": [(500, {})] * 99,
    "endless": ["drip"] * 99,
}


class Judge(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.attempts, self.requests, self.headers = Counter(), [], []
        self.key, self.model, self.lock = None, "judge-1", threading.Lock()
        self.released = threading.Event()  # ends silent handlers when a test ends


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        case = text.split("CASE ")[1].split()[0] if "CASE " in text else ""
        with server.lock:
            attempt = server.attempts[case]
            server.attempts[case] += 1
            server.requests.append(body)
            server.headers.append(self.headers)
        if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            return self.answer(401, "wrong key")
        if body["model"] != server.model:
            return self.answer(404, "no such model")
        if case == "paced" and attempt == 0:
            server.not_before = time.monotonic() + 0.45
        elif case == "paced" and time.monotonic() < server.not_before:
            return self.answer(429, "too early", {"Retry-After": "0.5"})
        planned = MISBEHAVIOUR.get(case, [])[attempt : attempt + 1]
        if not planned:
            return self.complete(self.speak(case, body["messages"]))
        return self.misbehave(planned[0])

    def misbehave(self, act):
        if act == "drop":
            self.connection.close()
        elif act == "silent":
            self.server.released.wait(30)
        elif act == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.server.released.wait(0.05):
                    self.wfile.write(b" ")
        elif isinstance(act, str):
            self.answer(200, act)
        else:
            self.answer(act[0], "", act[1])

    def speak(self, case: str, messages: list[dict]) -> str:
        turn = len(messages) // 2
        if turn == 0:
            return "A kind assessment."
        if case == "chatty" or (case == "chatty-once" and turn == 1):
            return f"Here you are:\n{GOOD}"
        return GOOD if case != "poor" else GOOD.replace("8", "0")

    def complete(self, text: str):
        message = {"role": "assistant", "content": text}
        self.answer(200, json.dumps({"model": "judge-1-2026", "choices": [{"message": message}]}))

    def answer(self, status: int, body: str, headers: dict | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body.encode())), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        raise AssertionError("a redirect was followed")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Judge, "handle_error", lambda *arguments: None)  # clients that disconnect are part of the tests
    with Judge() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def endpoint(server, **settings) -> Endpoint:
    return Endpoint(server.url, "judge-1", **({"first_pause": 0.01, "timeout": 1.0, "longest_pause": 0.5} | settings))


def story(text: str, prompt: str = "Tom had a", seed: int = 0) -> Sample:
    return Sample(prompt, text, True, "balanced", seed)


def judge_cases(server, tmp_path, *cases, **settings):
    return judge([story(f" CASE {case} .") for case in cases], endpoint(server, **settings), tmp_path / "answers.jsonl")


def test_two_turns(server, tmp_path):
    """The judge sees where the student's text begins, and grades in a second turn."""
    result = judge([story(" dog. {braces} stay.")], endpoint(server), tmp_path / "answers.jsonl")
    first, second = server.requests
    assert "Tom had a*** dog. {braces} stay." in first["messages"][0]["content"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == "A kind assessment." and "10" not in first["messages"][0]["content"]
    assert {name: grade["value"] for name, grade in result.grades.items()} == dict(
        zip(GRADES, (8, 5, 7, 6), strict=True)
    )
    assert result.age_groups == {"C": 1} and result.graded == 1 and result.unparsed == result.failed == 0
    assert result.asked_model == "judge-1" and result.models == ["judge-1-2026"] and result.dates


@pytest.mark.parametrize(
    "case", ["busy", "dated", "patience", "crash", "dropped", "silent", "dripping", "paced", "malformed"]
)
def test_retry(server, tmp_path, case):
    """After a transient failure the question is asked again."""
    timeout = 0.5 if case in ("silent", "dripping") else 1.0
    result = judge_cases(server, tmp_path, case, timeout=timeout)
    assert (result.graded, result.failed) == (1, 0)
    assert server.attempts[case] == len(MISBEHAVIOUR[case]) + 2


@pytest.mark.parametrize("case", ["down", "endless"])
def test_no_reply(server, tmp_path, case):
    """A story without a reply counts as failed and gets no grade."""
    result = judge_cases(server, tmp_path, case, "fine", attempts=2, timeout=0.5)
    assert (result.graded, result.unparsed, result.failed) == (1, 0, 1)
    assert result.grades["grammar"]["value"] == 8 and result.grades["grammar"]["number"] == 1
    assert "2 times" in result.first_failure and server.attempts[case] == 2


def test_unparsed_reply(server, tmp_path):
    """A reply without grades is asked for once more, and then counts as unparsed and not as a grade."""
    result = judge_cases(server, tmp_path, "chatty", "chatty-once")
    assert (result.graded, result.unparsed, result.failed) == (1, 1, 0)
    assert server.attempts["chatty"] == server.attempts["chatty-once"] == 3
    assert result.grades["plot"] == {"value": 6, "standard_error": None, "low": None, "high": None, "number": 1}


def test_standard_error(server, tmp_path):
    """A mean has its standard error and interval."""
    result = judge_cases(server, tmp_path, "fine", "good", "poor")
    grammar = result.grades["grammar"]  # 8, 8, 0
    assert grammar["value"] == pytest.approx(16 / 3) and grammar["standard_error"] == pytest.approx(8 / 3)
    assert grammar["low"] == pytest.approx(16 / 3 - 1.96 * 8 / 3, abs=0.01) and grammar["high"] == 10
    assert result.grades["plot"]["standard_error"] == 0


def test_server_down(server, tmp_path):
    """After several failures in a row, the other stories are not sent."""
    stories = [story(f" CASE down {i}.") for i in range(60)]
    result = judge(stories, endpoint(server, attempts=2), tmp_path / "answers.jsonl")
    assert result.failed == 60 and result.grades == {}
    assert server.attempts["down"] < 60


def test_wrong_key_or_model(server, tmp_path, monkeypatch):
    """A wrong key or model ends the judging at once, and the key is shown nowhere."""
    server.key = KEY
    monkeypatch.setenv("JUDGE_API_KEY", "sk-mistyped")
    asked = endpoint_from_environment(server.url, "judge-1")
    stories = [story(f" {i}") for i in range(50)]
    message = mistake(judge, stories, asked, tmp_path / "answers.jsonl", threads=1)
    assert "JUDGE_API_KEY" in message and "sk-" not in message + repr(asked)
    assert len(server.requests) == 1
    monkeypatch.setenv("JUDGE_API_KEY", f"{KEY}\n")
    unknown = endpoint_from_environment(server.url, "judge-7")
    assert "judge-7" in mistake(judge, stories, unknown, tmp_path / "answers.jsonl")
    right = endpoint_from_environment(server.url, "judge-1")
    assert judge(stories[:1], right, tmp_path / "answers.jsonl").graded == 1
    assert KEY not in (tmp_path / "answers.jsonl").read_text(encoding="utf-8") + repr(right)


@pytest.mark.parametrize(("status", "said"), [(400, "refuses the request"), (302, "another address")])
def test_refused_or_redirected(server, tmp_path, monkeypatch, status, said):
    """A refused or redirected request ends the judging at once, and the message does not show the key."""
    headers = {"Location": server.url}
    monkeypatch.setitem(MISBEHAVIOUR, "refused", [(status, headers)])
    message = mistake(judge_cases, server, tmp_path, "refused", key=KEY)
    assert said in message and KEY not in message and len(server.requests) == 1


def test_message_without_key(server, tmp_path, monkeypatch):
    """The server's error message is shown with the key removed."""
    monkeypatch.setattr(Handler, "complete", lambda self, text: self.answer(422, f"{KEY} asks too\nmuch"))
    message = mistake(judge_cases, server, tmp_path, "fine", key=KEY)
    assert "asks too much" in message and KEY not in message


def test_answers_are_reused(server, tmp_path):
    """A story with an answer is not sent again; another prompt makes it another story."""
    first = judge_cases(server, tmp_path, "fine", "chatty")
    asked = len(server.requests)
    again = judge_cases(server, tmp_path, "fine", "chatty")
    assert again == first and len(server.requests) == asked
    judge_cases(server, tmp_path, "fine", "chatty", "new", "new")
    assert len(server.requests) == asked + 2
    judge([story(" CASE fine .", prompt="Another")], endpoint(server), tmp_path / "answers.jsonl")
    assert len(server.requests) == asked + 4


def test_failed_story_again(server, tmp_path):
    """A failed story is sent again the next time."""
    assert judge_cases(server, tmp_path, "crash", attempts=1).failed == 1
    assert judge_cases(server, tmp_path, "crash", attempts=1).graded == 1


def test_answers_verbatim(server, tmp_path):
    """The file holds every reply verbatim."""
    judge_cases(server, tmp_path, "chatty")
    (line,) = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    kept = json.loads(line)
    assert kept["replies"] == ["A kind assessment.", f"Here you are:\n{GOOD}", f"Here you are:\n{GOOD}"]
    assert kept["grades"] is None and kept["model"] == "judge-1-2026" and kept["prompt"] == "Tom had a"


def test_damaged_answers(server, tmp_path):
    """An incomplete last line is asked again; a damaged line is an error with its number."""
    path = tmp_path / "answers.jsonl"
    judge_cases(server, tmp_path, "fine", "good")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:30], encoding="utf-8")
    for _ in range(2):
        assert judge_cases(server, tmp_path, "fine", "good").graded == 2
        assert len(server.requests) == 6
    path.write_text(lines[0] + "damaged\n", encoding="utf-8")
    assert f"{path}:2" in mistake(judge_cases, server, tmp_path, "fine")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        GOOD.replace("8/10", "8"),
        GOOD.replace("8/10", "80/10"),
        GOOD.replace("8/10", "8.5/10"),
        GOOD.replace("8/10", "8/100"),
        GOOD.replace("C", "G", 2),
        GOOD.replace("Age group: C", "Age group: G"),
        GOOD.replace("Plot: 6/10\n", ""),
        f"Sure!\n{GOOD}",
        f"{GOOD}\nWell done.",
        f"{GOOD}\n{GOOD}",
    ],
)
def test_no_grades(reply):
    """A reply other than the five lines has no grades."""
    assert parse_grades(reply) is None


def test_grades():
    """The five lines are read, whatever their case and spacing."""
    grades = {"grammar": 10, "creativity": 0, "consistency": 7, "plot": 6, "age_group": "F"}
    assert (
        parse_grades("\n Grammar: 10/10\ncreativity: 0 / 10\n\nConsistency: 7/10\nPlot: 6/10\nAge group: f\n") == grades
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "file:///etc/passwd",
        "http://",
        "http://a:b/v1",
        "http://[a",
        "http://a b",
        "http://name:word@a",
    ],
)
def test_bad_address(url):
    """A judge_url that is not an HTTP address is refused."""
    assert "address" in mistake(Endpoint, url, "judge-1")


def test_bad_key():
    """A key that HTTP cannot send is refused, and the message does not show it."""
    for key in ("two words", "line\nbreak", "na\u00efve"):
        assert key not in mistake(Endpoint, "http://localhost", "judge-1", key=key)
