"""Chromium, where one is installed, and what a page must not do in it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip  # noqa: E501
TIMEOUT = 60_000  # milliseconds: the machine may be busy with other tests


@contextmanager
def chromium() -> Iterator:
    """Playwright's browser; a test is skipped where there is none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = own if own.exists() else shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            pytest.skip("no browser: neither playwright's chromium nor chromium or google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Watch:
    """What a page must not do, except for what a test expects."""

    def __init__(self):
        self.heard = []
        self.expected = None  # a pattern of console messages: browsers log answers of 4xx and 5xx by themselves

    def unexpected(self) -> list[str]:
        return [line for line in self.heard if not (self.expected and re.search(self.expected, line))]

    def context(self, context) -> None:
        """Listen to violations of the content security policy."""
        context.expose_binding("tellOfViolation", lambda source, text: self.heard.append(f"policy: {text}"))
        context.add_init_script(
            "addEventListener('securitypolicyviolation', e => tellOfViolation(e.violatedDirective))"
        )

    def page(self, page) -> None:
        page.on("console", lambda message: self.heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.heard.append(f"error: {error}"))
