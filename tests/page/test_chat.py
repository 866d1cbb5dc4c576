"""Asking and being answered."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import Page, Request, expect

from tests.e2e.node import HANG, Wire, eventually, raw_chat, text

from .browser import Watch
from .conftest import Start
from .driver import Reader


def sent(request: Request) -> dict[str, object]:
    """The body of a chat."""
    body: dict[str, object] = json.loads(request.post_data or "{}")
    return body


CHAT = re.compile("/v1/chat/completions$")


def test_an_answer_comes_as_it_is_written(reader: Reader) -> None:
    reader.ask("hi", "paced")
    expect(reader.said).to_contain_text("word0 word1")
    expect(reader.answer).to_have_class(re.compile("coming"))
    assert "word39" not in reader.said.inner_text()
    reader.settled()
    expect(reader.said).to_contain_text("word39")
    expect(reader.questions).to_have_text(["hi"])


def test_the_bundled_model_does_a_sum_that_is_clicked(reader: Reader) -> None:
    reader.page.select_option("#model", "exo-demo")
    reader.button("What is 145 + 278?").click()
    expect(reader.said).to_contain_text("423")
    reader.settled()
    figures = reader.answer.locator(".figures")
    expect(figures).to_contain_text(re.compile(r"exo-demo · \d+ tokens · [\d.]+ tokens/s · first after"))
    expect(figures).to_contain_text(reader.node.me()["id"])


def test_auto_is_first_and_says_why_it_chose(reader: Reader) -> None:
    assert reader.page.locator("#model option").first.get_attribute("value") == "auto"
    expect(reader.page.locator("#model")).to_have_value("auto")
    with reader.page.expect_response(CHAT) as response:
        reader.chat("hi")
    why = response.value.headers["x-exo-route"].split("; ")
    reader.answer.locator(".figures summary").click()
    for reason in why:
        expect(reader.answer.locator(".figures li", has_text=reason)).to_be_visible()


def test_thoughts_are_folded_and_can_be_read(reader: Reader) -> None:
    reader.chat("hi", "thinker")
    expect(reader.said).to_have_text("Hello, you.")
    thoughts = reader.answer.locator("details.thoughts")
    expect(thoughts.locator("summary")).to_have_text(re.compile(r"Thought for \d+"))
    expect(thoughts.locator(".markdown")).to_have_count(0)
    thoughts.locator("summary").click()
    expect(thoughts.locator("strong")).to_have_text("greet")


def test_thinking_is_told_while_it_lasts(reader: Reader) -> None:
    reader.ask("hi", "ponders")
    summary = reader.answer.locator("details.thoughts summary")
    expect(summary).to_have_text(re.compile(r"Thinking… 0\.[5-9] s|Thinking… 1"))
    summary.click()
    expect(reader.answer.locator(".thoughts .markdown")).to_have_text("Let me see.")
    reader.button("Stop the answer").click()
    expect(summary).to_have_text(re.compile("Thought for"))


def test_a_stopped_answer_stays_and_lets_go_of_the_model(reader: Reader) -> None:
    reader.ask("hi", "hangs")
    expect(reader.said).to_have_text("It has begun")
    reader.button("Stop the answer").click()
    expect(reader.answer).to_contain_text("Stopped")
    expect(reader.said).to_have_text("It has begun")
    expect(reader.box).to_be_focused()
    eventually(lambda: reader.node.running() == 0)
    reader.chat("and now?", "hello")
    expect(reader.said).to_have_text("Hello, wörld!")


def test_an_answer_can_be_asked_for_again(reader: Reader) -> None:
    reader.chat("hi", "hello")
    with reader.page.expect_request(CHAT) as again:
        reader.button("Answer again").click()
    assert sent(again.value)["messages"] == [{"role": "user", "content": "hi"}]
    reader.settled()
    expect(reader.answers).to_have_count(1)
    expect(reader.said).to_have_text("Hello, wörld!")


def test_a_question_that_is_edited_forgets_what_came_after(reader: Reader) -> None:
    reader.chat("one", "hello")
    reader.chat("two")
    reader.questions.first.hover()
    reader.button("Edit and ask again", reader.questions.first).click()
    reader.page.get_by_role("textbox", name="Edit the question").fill("three")
    with reader.page.expect_request(CHAT) as asked:
        reader.button("Ask again").click()
    assert sent(asked.value)["messages"] == [{"role": "user", "content": "three"}]
    reader.settled()
    expect(reader.questions).to_have_text(["three"])
    expect(reader.answers).to_have_count(1)


def test_an_answer_is_gone_on_with(reader: Reader) -> None:
    reader.page.select_option("#model", "hello")
    reader.button("Settings of this conversation").click()
    reader.page.get_by_label("Max tokens").fill("2")
    reader.page.keyboard.press("Tab")
    reader.page.keyboard.press("Escape")
    reader.chat("hi")
    expect(reader.answer).to_contain_text("The limit of tokens was reached")
    expect(reader.said).to_have_text("Hello,")
    reader.button("Continue").click()
    reader.settled()
    expect(reader.said).to_have_text("Hello, wörld!")
    expect(reader.answers).to_have_count(1)


def test_tool_calls_are_shown(reader: Reader) -> None:
    reader.chat("add", "caller")
    expect(reader.answer.locator(".call code")).to_have_text("add")
    expect(reader.answer.locator(".call pre")).to_have_text('{\n  "a": 2\n}')


def test_what_the_node_says_went_wrong_is_shown_and_tried_again(reader: Reader, page: Page) -> None:
    reader.chat("hi", "breaks-midway")
    expect(reader.said).to_have_text("So far so good")
    expect(reader.answer.get_by_role("alert")).to_contain_text("the wheel came off")
    page.select_option("#model", "hello")
    reader.button("Retry").click()
    reader.settled()
    expect(reader.said).to_have_text("Hello, wörld!")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_status_is_shown_as_the_node_puts_it(reader: Reader) -> None:
    reader.watch.allow("502")
    reader.chat("hi", "broken")
    expect(reader.answer.get_by_role("alert")).to_contain_text("the wheel came off")
    expect(reader.button("Retry")).to_be_enabled()
    expect(reader.button("Continue")).to_have_count(0)


def test_a_full_queue_says_how_long_to_wait(start: Start, page: Page, watch: Watch) -> None:
    node = start("--slots", "1", "--max-waiting", "1", scripts={"holds": [text("on"), text(" and"), HANG]})
    reader = Reader(page, node, watch)
    reader.watch.allow("429")
    with Wire(node) as holder, ThreadPoolExecutor(1) as others:
        holder.send(raw_chat("holds", stream=True))
        holder.until(b'"on"')
        second = others.submit(node.chat, "holds", max_tokens=1)
        eventually(lambda: node.waiting() == 1)
        reader.chat("hi", "holds")
        retry = reader.answer.get_by_role("button", name=re.compile(r"Retry \(better in \d+ s\)"))
        expect(retry).to_be_enabled()
        holder.close()
        second.result()
        retry.click()
        expect(reader.said).to_have_text("on and")
        reader.button("Stop the answer").click()


def test_an_answer_goes_on_behind_another_conversation(reader: Reader) -> None:
    reader.ask("the slow one", "paced")
    expect(reader.said).to_contain_text("word0")
    reader.button("New chat").click()
    reader.chat("the fast one", "hello")
    expect(reader.said).to_have_text("Hello, wörld!")
    reader.conversations.filter(has_text="the slow one").click()
    expect(reader.said).to_contain_text("word39")
    reader.settled()


def test_copying_gives_the_text_as_it_was_written(reader: Reader) -> None:
    reader.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    reader.chat("hi", "showcase")
    reader.button("Copy code", reader.said).first.click()
    code = reader.page.evaluate("navigator.clipboard.readText()")
    assert code.startswith('def is_prime(n: int) -> bool:\n    """Whether `n` is prime."""\n')
    reader.button("Copy answer").click()
    assert "## A function" in reader.page.evaluate("navigator.clipboard.readText()")


def test_markdown_is_rendered_and_code_coloured(reader: Reader) -> None:
    reader.chat("hi", "showcase")
    expect(reader.said.get_by_role("heading", name="A function")).to_be_visible()
    expect(reader.said.locator("td").first).to_have_text("RK3588")
    expect(reader.said.locator(".hljs-keyword").first).to_have_text("def")
    expect(reader.said.locator("ol > li")).to_have_count(4)
    expect(reader.said.locator("ol").last).to_have_attribute("start", "4")
    expect(reader.said.get_by_role("cell", name="8 GB").first).to_have_css("text-align", "right")
    expect(reader.said.locator("li .code pre")).to_have_text("exo --port 8000\n")
    link = reader.said.get_by_role("link", name="link")
    assert (link.get_attribute("rel"), link.get_attribute("target")) == ("noopener noreferrer", "_blank")


def test_colours_are_loaded_only_when_there_is_code(reader: Reader) -> None:
    reader.chat("hi", "hello")
    assert not any("highlight.js" in url for url in reader.watch.asked)
    reader.chat("code", "showcase")
    expect(reader.said.locator(".hljs-keyword").first).to_be_visible()
    assert any("highlight.js" in url for url in reader.watch.asked)
