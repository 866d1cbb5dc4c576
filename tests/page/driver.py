"""The page as a reader uses it."""

from playwright.sync_api import Locator, Page, expect

from tests.e2e.node import Node

from .browser import PATIENCE, Watch

expect.set_options(timeout=PATIENCE)


class Reader:
    """Somebody at the page of a node, which is open and has heard of its models."""

    def __init__(self, page: Page, node: Node, watch: Watch) -> None:
        self.page = page
        self.node = node
        self.watch = watch
        page.goto(node.url)
        expect(page.locator("#model")).to_be_enabled()

    # What is there

    @property
    def box(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message")

    @property
    def questions(self) -> Locator:
        return self.page.locator(".question")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer")

    @property
    def answer(self) -> Locator:
        """The last one."""
        return self.answers.last

    @property
    def said(self) -> Locator:
        """Its text."""
        return self.answer.locator(":scope > .markdown")

    @property
    def conversations(self) -> Locator:
        return self.page.locator("#conversations a")

    def button(self, name: str, within: Locator | None = None) -> Locator:
        return (within or self.page).get_by_role("button", name=name, exact=True)

    # What he does

    def ask(self, question: str, model: str = "") -> None:
        """Sends a question, and does not wait for the answer."""
        if model:
            self.page.select_option("#model", model)
        self.box.fill(question)
        self.box.press("Enter")

    def chat(self, question: str, model: str = "") -> None:
        """Sends a question, and waits until the answer is over."""
        before = self.answers.count()
        self.ask(question, model)
        expect(self.answers).to_have_count(before + 1)
        self.settled()

    def settled(self) -> None:
        """Waits until no answer is on its way."""
        expect(self.page.locator(".answer.coming")).to_have_count(0)

    def reload(self) -> None:
        self.page.reload()
        expect(self.page.locator("#model")).to_be_enabled()
