"""Open WebUI itself, in a browser, against a running server: its program, its page, and what a person does there.

benchmarks/clients.py installs it and starts the server. It is started as it comes, but for the connection, a seed, a
limit of tokens and what would need a network or a login. So every story on its page must be the one that the server
gives without it, and the second message shows whether the first answer came back whole.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


SECONDS = 240  # at most, for anything: the first start makes a database, and the machine may be busy
SETTINGS = {
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "none",
    "ENABLE_OLLAMA_API": "False",
    "OPENAI_API_KEY": "none",
    "OFFLINE_MODE": "True",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "True",
    "RAG_EMBEDDING_MODEL": "",
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "True",
}
Story = Callable[[str], str]  # the text that the server writes after this one, with the seed and the limit


@contextlib.contextmanager
def started(program: Path, data: Path, url: str, params: dict[str, int]) -> Iterator[str]:
    """The address of Open WebUI with one connection, to `url`.

    Raises:
        TimeoutError: it does not answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"OPENAI_API_BASE_URL": f"{url}/v1", "DATA_DIR": str(data), "DEFAULT_MODEL_PARAMS": json.dumps(params)}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (data / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=inherited | SETTINGS | variables,
            cwd=data,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_for(address: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/health"):
            return
        time.sleep(1)
    raise TimeoutError(f"Open WebUI does not answer within {SECONDS} seconds")


def calls(tab: Any, address: str, model: str, prompt: str, story: Story) -> Iterator[tuple[str, Callable[[], None]]]:
    """tab: a page of playwright."""
    tab.set_default_timeout(1000 * SECONDS)
    answers, box = tab.locator(".chat-assistant"), tab.locator("#chat-input")
    first = story(prompt)
    second = story(f"{prompt}{first.rstrip()} Then")

    def shown(number: int, text: str) -> None:
        """Wait until answer `number` is this text, without the white space around it, and complete."""
        tab.locator("button[aria-label='Regenerate']").nth(number).wait_for()
        found = " ".join(answers.nth(number).inner_text().split())
        if found != " ".join(text.split()):
            raise AssertionError(f"expected {text.strip()!r} on the page, found {found[:100]!r}")

    def send(text: str) -> None:
        box.fill(text)
        box.press("Enter")

    def models() -> None:
        tab.goto(address)
        tab.get_by_role("button", name="Okay, Let's Go!").click()  # below the news of this version
        tab.get_by_role("button", name=f"Selected model: {model}").wait_for()

    def chat() -> None:
        send(prompt)
        shown(0, first)

    def conversation() -> None:
        send("Then")
        shown(1, second)

    def regenerate() -> None:
        tab.locator("button[aria-label='Regenerate']").nth(1).click()
        tab.get_by_text("Try Again").click()
        tab.get_by_text("2/2").wait_for()
        shown(1, second)

    yield "models", models
    yield "chat, streaming", chat
    yield "a second message", conversation
    yield "regenerate", regenerate
