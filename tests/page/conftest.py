"""One browser for all tests of the page, one node for those that only ask, and a fresh profile for each.

A test with a node of its own names it before its page, so that the page is closed first: one that is left
without its node complains.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.e2e.conftest import Start, home, start
from tests.e2e.node import Node

from .browser import Watch, context_of, launched
from .driver import Reader
from .scripts import write_all

__all__ = ["Start", "home", "start"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not for the session: while it is open a loop runs in this thread, where asynchronous tests want one."""
    with sync_playwright() as playwright:
        browser = launched(playwright)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("page")
    write_all(home)
    node = Node(home)
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture
def node(_shared: Node) -> Iterator[Node]:
    """A node with the bundled model and the scripts of `scripts.py`."""
    yield _shared
    _shared.check_log()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """What all pages of the test said and asked; checked at its end."""
    watch = Watch()
    yield watch
    watch.check()


@pytest.fixture
def options() -> Mapping[str, object]:
    """How the test's profile differs from the usual one; a test parametrizes it."""
    return {}


@pytest.fixture
def context(browser: Browser, watch: Watch, options: Mapping[str, object]) -> Iterator[BrowserContext]:
    with context_of(browser, **options) as context:
        context.on("page", watch.on)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A page that has not gone anywhere yet."""
    return context.new_page()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def reader(page: Page, node: Node, watch: Watch) -> Reader:
    """Somebody at the page of the shared node."""
    return Reader(page, node, watch)
