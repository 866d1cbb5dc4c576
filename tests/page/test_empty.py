"""What is shown before anything has been said."""

from playwright.sync_api import Page, expect

from .browser import Watch
from .conftest import Start
from .driver import Reader


def test_it_says_what_this_is_and_what_to_ask(reader: Reader) -> None:
    empty = reader.page.locator("#empty")
    expect(empty.get_by_role("heading", name="Ask your own machines")).to_be_visible()
    expect(empty.locator(".example")).to_have_count(3)
    reader.page.select_option("#model", "unused")
    # "auto" may have picked it for another test.
    known = any(each["model"] == "unused" for each in reader.node.me()["loaded"])
    state = "in memory on" if known else "loaded when the first question comes."
    expect(empty).to_contain_text(f"unused is {state}")
    reader.chat("hi", "hello")
    expect(empty).to_be_hidden()


def test_a_model_that_is_in_memory_is_said_to_be(start: Start, page: Page, watch: Watch) -> None:
    node = start()
    node.chat("exo-demo", "hi", max_tokens=1)
    reader = Reader(page, node, watch)
    expect(page.locator("#empty")).to_contain_text(f"exo-demo is in memory on {node.me()['id']}.")
    # And that there is no other one, and where to get it.
    reader.button("Get a larger model").click()
    expect(page.locator("#panel-models")).to_be_visible()
