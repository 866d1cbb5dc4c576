"""A node that goes away, one that comes back, and one that wants a key."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.node import HANG, Node, text, write_script

from .browser import Watch
from .conftest import Start
from .driver import Reader

KEY = "a key for tests"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts a node that may be killed."""
    write_script(tmp_path, "hello", [text("Hello")])
    write_script(tmp_path, "hangs", [text("It has begun"), HANG])
    nodes: list[Node] = []

    def start(*flags: str) -> Node:
        nodes.append(Node(tmp_path, *flags))
        return nodes[-1]

    yield start
    for node in nodes:
        node.kill()


def test_a_node_that_is_gone_is_told_of_and_waited_for(
    run: Callable[..., Node], page: Page, watch: Watch
) -> None:
    watch.allow("Failed to load resource")
    node = run()
    reader = Reader(page, node, watch)
    reader.ask("hi", "hangs")
    expect(reader.said).to_have_text("It has begun")
    banner = page.locator("#banner")
    expect(banner).to_be_hidden()
    node.kill()
    expect(reader.answer.get_by_role("alert")).to_contain_text("The connection was lost")
    expect(reader.said).to_have_text("It has begun")
    expect(banner).to_have_text("Node does not answer; trying again")
    # Nothing is lost by asking now.
    page.select_option("#model", "hello")
    reader.chat("are you there?")
    expect(reader.answer.get_by_role("alert")).to_contain_text("The node does not answer")
    again = run("--port", str(node.port))
    assert again.port == node.port
    # As a reader's machine says that is online again: at once, and not after the seconds that are waited.
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(banner).to_be_hidden()
    reader.button("Retry").last.click()
    reader.settled()
    expect(reader.said).to_have_text("Hello")


def test_a_node_that_is_back_is_found_without_being_asked_for(
    run: Callable[..., Node], page: Page, watch: Watch
) -> None:
    watch.allow("Failed to load resource")
    node = run()
    reader = Reader(page, node, watch)
    node.kill()
    reader.chat("hi", "hello")
    expect(page.locator("#banner")).to_be_visible()
    run("--port", str(node.port))
    expect(page.locator("#banner")).to_be_hidden()


def test_a_key_is_asked_for_and_used(start: Start, page: Page, watch: Watch) -> None:
    watch.allow("401")
    node = start(scripts={"hello": [text("Hello")]}, env={"EXO_API_KEY": KEY})
    page.goto(node.url)
    asked = page.get_by_role("dialog", name="Settings")
    expect(asked.get_by_role("alert")).to_contain_text("wants its key")
    field = asked.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("a wrong one")
    field.press("Enter")
    expect(asked.get_by_role("alert")).to_contain_text("did not accept the key")
    field.fill(KEY)
    field.press("Enter")
    expect(asked).to_have_count(0)
    expect(page.locator("#model")).to_have_value("auto")
    reader = Reader(page, node, watch)
    reader.chat("hi", "hello")
    expect(reader.said).to_have_text("Hello")
    assert page.evaluate("localStorage.getItem('exo.key')") is None
    # It is another tab's, too, once it is to be remembered.
    reader.button("Settings").click()
    asked.get_by_label("Remember it").check()
    reader.button("Save key").click()
    other = Reader(page.context.new_page(), node, watch)
    other.chat("hi", "hello")
    expect(other.said).to_have_text("Hello")


def test_a_key_that_is_not_given_is_not_asked_for_over_and_over(
    start: Start, page: Page, watch: Watch
) -> None:
    watch.allow("401")
    node = start(env={"EXO_API_KEY": KEY})
    page.goto(node.url)
    dialog = page.get_by_role("dialog", name="Settings")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("textbox", name="Message").fill("hi")
    page.keyboard.press("Enter")
    failure = page.locator(".answer").get_by_role("alert")
    expect(failure).to_contain_text("this node wants its key")
    expect(dialog).to_have_count(0)
    failure.get_by_role("button", name="Enter the key").click()
    expect(dialog).to_be_visible()
