"""GET /docs: complete, true, readable on a phone, and under the same policy as the page."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from helpers.browser import TIMEOUT, Watch, chromium
from helpers.serving import ServerThread, untrained
from tinystories.server.chat import ChatBody, Message
from tinystories.server.completions import CompletionBody
from tinystories.server.reference import code, page
from tinystories.server.schema import GenerateBody


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ServerThread(untrained(tmp_path_factory.mktemp("reference") / "it's a run", context=64)) as server:
        yield server


class Texts(HTMLParser):
    """The text of every element with one of these names."""

    def __init__(self, *names: str):
        super().__init__()
        self.names, self.depth, self.found = names, 0, list[str]()

    def handle_starttag(self, tag, attrs):
        if tag in self.names:
            self.depth += 1
            self.found.append("")

    def handle_endtag(self, tag):
        self.depth -= tag in self.names

    def handle_data(self, data):
        if self.depth:
            self.found[-1] += data


def texts(html: str, *names: str) -> list[str]:
    parser = Texts(*names)
    parser.feed(html)
    return parser.found


def test_routes_and_fields(server):
    """Every route of the description, and every field of every body with its bounds."""
    html = server.client.get("/docs").text
    described = server.client.get("/openapi.json").json()["paths"]
    assert {" ".join(title.split()) for title in texts(html, "h2")} == {
        f"{method.upper()} {path}" for path, methods in described.items() for method in methods
    }
    fields = [" ".join(text.split()) for text in texts(html, "dt")]
    for model in (GenerateBody, CompletionBody, ChatBody, Message):
        for name in model.model_fields:
            assert any(text == name or text.startswith(f"{name} ") for text in fields), name
    for line in (
        "prompt string, required",
        "temperature number, 0.1 to 2",
        "max_tokens integer, 1 to 1,000,000, default 200",
        "seed integer, 0 to 9007199254740991",
        "top_p number, above 0, at most 1, default 1.0",
        "stop string, 1 to 100 characters or list of string, at most 4",
        "messages list of object, at most 1,024, required",
        'role "system" or "developer" or "user" or "assistant", required',
        "n integer, 1 to 128, default 1",
        "top_k integer, 0 to 100, default 0",
        "stream boolean, default false",
        "new_tokens integer, required",
    ):
        assert line in fields, line
    chat = [text.split()[0] for text in fields]
    assert chat.index("messages") < chat.index("max_completion_tokens") and "200" not in chat, (
        "what is required is first"
    )
    assert {"400", "408", "413", "422", "429", "431", "500", "503", "504"} <= set(fields)


@pytest.mark.skipif(sys.platform == "win32", reason="the lines are for a Unix shell")
def test_examples(server):
    """Each curl line works as it stands, whatever the name of the model."""
    examples = texts(server.client.get("/docs").text, "pre")
    assert len(examples) == len(server.client.get("/openapi.json").json()["paths"])
    for example in examples:
        words = shlex.split(example.replace("\\\n", ""))
        assert words[0] == "curl" and words[1].startswith(server.url)
        body = words[words.index("-d") + 1] if "-d" in words else None
        answer = server.client.request("POST" if body else "GET", words[1], content=body, headers=JSON if body else {})
        assert answer.status_code == 200 and " " not in words[1], example
    if shutil.which("curl"):
        process = subprocess.run(["sh", "-c", examples[0]], capture_output=True, text=True, encoding="utf-8")
        assert "[DONE]" in process.stdout, process.stderr


JSON = {"Content-Type": "application/json"}


def test_names_are_escaped():
    """Guards: a model's name or a Host header that is HTML."""
    description = {"info": {"version": "1"}, "paths": {}, "components": {"schemas": {}}}
    html = page(description, "http://<script>", '"><img src=x>')
    assert "<script" not in html and "<img src=x" not in html
    assert code("`a<b` & `c") == "<code>a&lt;b</code> &amp; <code>c</code>"


def test_without_scripts(server):
    """Nothing that the policy of the server would stop, and nothing from another site."""
    answer = server.client.get("/docs")
    assert "unsafe" not in answer.headers["Content-Security-Policy"] and answer.headers["content-type"].startswith(
        "text/html"
    )
    assert not re.search(r"<script|<style|\son\w+=|\sstyle=", answer.text)
    linked = re.findall(r'(?:href|src)="([^"#]+)"', answer.text)
    assert linked and not [address for address in linked if ":" in address]
    for address in set(linked):
        assert server.client.get(f"/{address.removeprefix('./')}").status_code == 200
    anchors = re.findall(r'href="#([^"]+)"', answer.text)
    assert anchors and all(answer.text.count(f'id="{anchor}"') == 1 for anchor in anchors)


@pytest.mark.browser
def test_in_a_browser(server):
    """No message in the console, no scroll to the side on a phone, and accessible in both themes."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is absent").Axe()
    with chromium() as browser:
        for scheme in ("light", "dark"):
            watch = Watch()
            context = browser.new_context(viewport={"width": 360, "height": 780}, color_scheme=scheme)
            watch.context(context)
            shown = context.new_page()
            watch.page(shown)
            shown.goto(f"{server.url}/docs", timeout=TIMEOUT)
            assert shown.evaluate("document.documentElement.scrollWidth") <= 360
            for summary in shown.locator("summary").all():
                summary.click()
            assert shown.evaluate("document.documentElement.scrollWidth") <= 360, "with all details open"
            found = axe.run(shown).response["violations"]
            assert not found, json.dumps([(each["id"], each["nodes"][0]["html"]) for each in found])
            assert not watch.unexpected()
            context.close()
