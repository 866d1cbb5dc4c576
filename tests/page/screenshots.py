"""Makes the pictures of the documentation: `python -m tests.page.screenshots FOLDER`."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.e2e.node import Node

from .browser import DESKTOP, PHONE, Watch, context_of, launched
from .driver import Reader
from .scripts import write_pictures

PICTURES: Mapping[str, Mapping[str, object]] = {
    "chat-desktop": {"viewport": DESKTOP},
    "chat-dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "chat-phone": {"viewport": PHONE, "has_touch": True, "is_mobile": True},
}


def take(browser: Browser, node: Node, folder: Path) -> list[Path]:
    """The pictures, as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, options in PICTURES.items():
        with context_of(browser, **options) as context:
            reader = Reader(context.new_page(), node, Watch())
            reader.chat("What is 145 + 278?", "exo-demo")
            reader.page.keyboard.press("Control+Shift+O")
            reader.chat("How do I tell whether a number is prime, in Python?", "primes")
            expect(reader.said.locator(".hljs-keyword").first).to_be_visible()
            made.append(folder / f"{name}.png")
            reader.page.screenshot(path=str(made[-1]))
    return made


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        write_pictures(Path(home))
        node = Node(Path(home), "--node-id", "desk")
        try:
            with sync_playwright() as playwright:
                browser = launched(playwright)
                try:
                    for path in take(browser, node, folder):
                        print(path)
                finally:
                    browser.close()
            node.stop()
        finally:
            node.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
