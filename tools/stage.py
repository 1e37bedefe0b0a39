"""A server and a browser for the scripts that take pictures of the page, tools/moving_picture.py and first_minutes.py.

What they look for on the page is what a visitor sees: labels and roles, no ids.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parent.parent
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TIMEOUT = 120_000  # milliseconds: the machine may be busy


@contextmanager
def served(checkpoint: str, folder: Path, *options: str, python: str = sys.executable) -> Iterator[str]:
    """The address of run_server.py with this checkpoint, on a free port; it ends with the block."""
    process = subprocess.Popen(
        [python, str(ROOT / "run_server.py"), checkpoint, "--port", "0", *options],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    log = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            if address := re.search(r"http://\S+:\d+", line):
                yield address[0]
                return
        raise SystemExit(f"the server did not start:\n{''.join(log)}")
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser: playwright's own, or the chromium or google-chrome of the system."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            raise SystemExit("no browser: `python -m playwright install chromium` fetches one")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def open_page(browser: Any, address: str, width: int, height: int, theme: str = "light", script: str = "") -> Any:
    """The page of the server in a window of its own, ready to write.

    theme: what the system asks for, light or dark. script: JavaScript that runs before that of the page.
    """
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    page.set_default_timeout(TIMEOUT)
    page.add_init_script(script)
    page.goto(address)
    write_button(page).wait_for()
    page.get_by_text(re.compile("connecting", re.IGNORECASE)).first.wait_for(state="hidden")
    return page


def prompt_field(page: Any) -> Any:
    return page.get_by_role("textbox", name=re.compile("beginning", re.IGNORECASE)).first


def write_button(page: Any) -> Any:
    return page.get_by_role("button", name=re.compile(r"^write\b", re.IGNORECASE)).first


def stop_button(page: Any) -> Any:
    return page.get_by_role("button", name=re.compile(r"^stop\b", re.IGNORECASE)).first


def wait_until_written(page: Any) -> None:
    """A story that was begun is finished: the button that stops it has come and gone."""
    stop_button(page).wait_for(state="hidden")
    page.get_by_role("button", name=re.compile(r"^copy\b", re.IGNORECASE)).first.wait_for()
