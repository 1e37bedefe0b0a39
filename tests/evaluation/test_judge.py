"""A judge over HTTP: what a server may do wrong is counted or said, and never turned into a grade."""

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
WAYWARD = {  # what the case in a story's text makes the server do, by attempt; afterwards it answers as it should
    "busy": [(429, {"Retry-After": "0"}), (429, {"Retry-After": "0"})],
    "dated": [(503, {"Retry-After": formatdate(0, usegmt=True)})],
    "patience": [(429, {"Retry-After": "86400"})],
    "crash": [(500, {})],
    "dropped": ["drop", "drop"],
    "silent": ["silent"],
    "dripping": ["drip"],
    "paced": [(429, {"Retry-After": "1"})],  # and so is every attempt that comes earlier than that
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
        self.released = threading.Event()  # lets silent handlers go when a test ends


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
            server.not_before = time.monotonic() + 0.9
        elif case == "paced" and time.monotonic() < server.not_before:
            return self.answer(429, "too early", {"Retry-After": "1"})
        planned = WAYWARD.get(case, [])[attempt : attempt + 1]
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
        raise AssertionError("a redirected question")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Judge, "handle_error", lambda *arguments: None)  # a client that left is what is tested
    with Judge() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def endpoint(server, **settings) -> Endpoint:
    return Endpoint(server.url, "judge-1", **({"first_pause": 0.01, "timeout": 1.0, "longest_pause": 1.0} | settings))


def story(text: str, prompt: str = "Tom had a", seed: int = 0) -> Sample:
    return Sample(prompt, text, True, "balanced", seed)


def judge_cases(server, tmp_path, *cases, **settings):
    return judge([story(f" CASE {case} .") for case in cases], endpoint(server, **settings), tmp_path / "answers.jsonl")


def test_the_judge_sees_where_the_students_text_begins_and_grades_in_a_second_turn(server, tmp_path):
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
def test_a_server_that_comes_to_its_senses_is_asked_again(server, tmp_path, case):
    result = judge_cases(server, tmp_path, case)
    assert (result.graded, result.failed) == (1, 0)
    assert server.attempts[case] == len(WAYWARD[case]) + 2


@pytest.mark.parametrize("case", ["down", "endless"])
def test_a_story_without_a_reply_is_failed_and_not_a_grade(server, tmp_path, case):
    result = judge_cases(server, tmp_path, case, "fine", attempts=2)
    assert (result.graded, result.unparsed, result.failed) == (1, 0, 1)
    assert result.grades["grammar"]["value"] == 8 and result.grades["grammar"]["number"] == 1
    assert "2 times" in result.first_failure and server.attempts[case] == 2


def test_an_unparsed_reply_is_asked_for_once_more_and_is_not_a_grade(server, tmp_path):
    result = judge_cases(server, tmp_path, "chatty", "chatty-once")
    assert (result.graded, result.unparsed, result.failed) == (1, 1, 0)
    assert server.attempts["chatty"] == server.attempts["chatty-once"] == 3
    assert result.grades["plot"] == {"value": 6, "standard_error": None, "low": None, "high": None, "number": 1}


def test_means_come_with_their_standard_error(server, tmp_path):
    result = judge_cases(server, tmp_path, "fine", "good", "poor")
    grammar = result.grades["grammar"]  # 8, 8, 0
    assert grammar["value"] == pytest.approx(16 / 3) and grammar["standard_error"] == pytest.approx(8 / 3)
    assert grammar["low"] == pytest.approx(16 / 3 - 1.96 * 8 / 3, abs=0.01) and grammar["high"] == 10
    assert result.grades["plot"]["standard_error"] == 0


def test_a_server_that_is_down_is_not_asked_about_every_story(server, tmp_path):
    stories = [story(f" CASE down {i}.") for i in range(60)]
    result = judge(stories, endpoint(server, attempts=2), tmp_path / "answers.jsonl")
    assert result.failed == 60 and result.grades == {}
    assert server.attempts["down"] < 60


def test_a_wrong_key_or_model_stops_at_once_and_the_key_is_not_shown(server, tmp_path, monkeypatch):
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


@pytest.mark.parametrize(("status", "said"), [(400, "refuses the question"), (302, "another address")])
def test_a_refused_or_redirected_question_stops_at_once_without_the_key(server, tmp_path, monkeypatch, status, said):
    headers = {"Location": server.url}
    monkeypatch.setitem(WAYWARD, "refused", [(status, headers)])
    message = mistake(judge_cases, server, tmp_path, "refused", key=KEY)
    assert said in message and KEY not in message and len(server.requests) == 1


def test_what_the_server_says_is_shown_without_the_key(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "complete", lambda self, text: self.answer(422, f"{KEY} asks too\nmuch"))
    message = mistake(judge_cases, server, tmp_path, "fine", key=KEY)
    assert "asks too much" in message and KEY not in message


def test_stories_with_an_answer_are_not_asked_about_again(server, tmp_path):
    first = judge_cases(server, tmp_path, "fine", "chatty")
    asked = len(server.requests)
    again = judge_cases(server, tmp_path, "fine", "chatty")
    assert again == first and len(server.requests) == asked
    judge_cases(server, tmp_path, "fine", "chatty", "new", "new")
    assert len(server.requests) == asked + 2
    judge([story(" CASE fine .", prompt="Another")], endpoint(server), tmp_path / "answers.jsonl")
    assert len(server.requests) == asked + 4


def test_failed_stories_are_asked_about_again(server, tmp_path):
    assert judge_cases(server, tmp_path, "crash", attempts=1).failed == 1
    assert judge_cases(server, tmp_path, "crash", attempts=1).graded == 1


def test_the_answers_are_kept_word_for_word(server, tmp_path):
    judge_cases(server, tmp_path, "chatty")
    (line,) = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    kept = json.loads(line)
    assert kept["replies"] == ["A kind assessment.", f"Here you are:\n{GOOD}", f"Here you are:\n{GOOD}"]
    assert kept["grades"] is None and kept["model"] == "judge-1-2026" and kept["prompt"] == "Tom had a"


def test_a_line_cut_off_by_a_stop_is_asked_again_and_a_damaged_one_is_named(server, tmp_path):
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
def test_a_reply_that_is_not_the_five_lines_has_no_grades(reply):
    assert parse_grades(reply) is None


def test_the_five_lines_are_read():
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
def test_what_is_no_address_is_refused(url):
    assert "address" in mistake(Endpoint, url, "judge-1")


def test_a_key_that_cannot_be_sent_is_refused_unseen():
    for key in ("two words", "line\nbreak", "na\u00efve"):
        assert key not in mistake(Endpoint, "http://localhost", "judge-1", key=key)
