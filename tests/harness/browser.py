"""A real Chromium, as Debian and others package it, and what a page does in it."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# It is to talk to nobody but the page's own server; as root, which containers are, it has no sandbox.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 20_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run one; skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("chromium is not installed here: apt-get install chromium, or the like")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page on its own, as a visitor has it who was never there.

    Attributes:
        complaints: what the browser had to say against it.
        asked: every address that it asked for.
        heard: what its own addresses answered, but for streams.
    """

    def __init__(self, browser: Browser, **looks: Any) -> None:
        self._context = browser.new_context(**looks)
        self._context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._answers: list[Response] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", lambda response: self._answers.append(response))  # noqa: PLW0108 - it marks what it is given

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    @property
    def heard(self) -> list[str]:
        streams = "text/event-stream"
        return [each.text() for each in self._answers if streams not in each.headers.get("content-type", "")]

    def close(self) -> None:
        self._context.close()
