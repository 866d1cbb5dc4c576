"""A Chromium, and pages in it that may say nothing to their console and ask for nothing elsewhere."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Playwright, Request

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 15_000
"""Milliseconds that a page has for what a test waits for. It is a failure to reach it."""

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


def launched(playwright: Playwright) -> Browser:
    """The system's Chromium. Fails, with the remedy, where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "the tests of the page need Chromium: apt-get install chromium"
    return playwright.chromium.launch(executable_path=found, args=[*FLAGS])


class Watch:
    """What a page said to its console, and what it asked for. `allow` names parts of what it may say."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.dialogs: list[str] = []
        self._allowed: list[str] = []

    def allow(self, *parts: str) -> None:
        self._allowed.extend(parts)

    def on(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))
        page.on("request", self._request)
        page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.text} ({message.location.get('url', '')})")

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)

    def check(self) -> None:
        """Fails if the page complained, asked for anything that is not on this machine, or showed a dialog of
        the browser's own."""
        bad = [line for line in self.said if not any(part in line for part in self._allowed)]
        assert not bad, bad
        here = ("http://127.0.0.1:", "https://127.0.0.1:", "data:", "blob:")
        away = [url for url in self.asked if not url.startswith(here)]
        assert not away, away
        assert not self.dialogs, self.dialogs


@contextmanager
def context_of(browser: Browser, **options: object) -> Iterator[BrowserContext]:
    """A profile of its own, without animations unless they are asked for."""
    settings = {"viewport": DESKTOP, "reduced_motion": "reduce", "color_scheme": "light", **options}
    context = browser.new_context(**settings)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    try:
        yield context
    finally:
        context.close()


def save(page: Page, path: Path) -> Path:
    page.screenshot(path=str(path))
    return path
