"""Conversations, as the browser keeps them."""

import json
from pathlib import Path

from playwright.sync_api import Download, expect

from .driver import Reader


def file(download: Download) -> str:
    return Path(download.path()).read_text()


def test_a_conversation_is_there_after_a_reload(reader: Reader) -> None:
    reader.chat("What was that?", "thinker")
    reader.reload()
    expect(reader.questions).to_have_text(["What was that?"])
    expect(reader.said).to_have_text("Hello, you.")
    expect(reader.conversations).to_have_text(["What was that?"])
    assert reader.page.title() == "What was that? · exo"
    reader.chat("And now?")
    expect(reader.said).to_have_text("Hello, you.")
    expect(reader.answers).to_have_count(2)


def test_an_answer_that_was_left_can_be_gone_on_with(reader: Reader) -> None:
    reader.ask("hi", "hangs")
    expect(reader.said).to_have_text("It has begun")
    # Kept every few seconds; leaving the page keeps it at once.
    reader.reload()
    expect(reader.questions).to_have_text(["hi"])
    expect(reader.answer.get_by_role("alert")).to_contain_text("The connection was lost")
    expect(reader.button("Retry")).to_be_enabled()


def test_conversations_are_found_by_title_and_by_what_was_said(reader: Reader) -> None:
    reader.chat("First of all", "hello")
    reader.button("New chat").click()
    reader.chat("Something else", "thinker")
    expect(reader.conversations).to_have_text(["Something else", "First of all"])
    search = reader.page.get_by_role("searchbox", name="Search conversations")
    search.fill("wörld")
    expect(reader.conversations).to_have_text(["First of all"])
    search.fill("something you")
    expect(reader.conversations).to_have_text(["Something else"])
    search.fill("nowhere")
    expect(reader.conversations).to_have_count(0)
    expect(reader.page.locator("#conversations")).to_contain_text("Nothing has these words in it.")
    search.fill("")
    reader.conversations.last.click()
    expect(reader.questions).to_have_text(["First of all"])
    reader.page.go_back()
    expect(reader.questions).to_have_text(["Something else"])


def test_a_conversation_gets_another_name(reader: Reader) -> None:
    reader.chat("hi", "hello")
    reader.conversations.first.hover()
    reader.button("Rename hi").click()
    name = reader.page.get_by_role("textbox", name="New name")
    name.fill("Greetings <b>")
    name.press("Enter")
    expect(reader.conversations).to_have_text(["Greetings <b>"])
    reader.chat("again")
    reader.reload()
    expect(reader.conversations).to_have_text(["Greetings <b>"])


def test_what_is_deleted_can_be_had_back(reader: Reader) -> None:
    reader.chat("keep me", "hello")
    reader.conversations.first.hover()
    reader.button("Delete keep me").click()
    expect(reader.conversations).to_have_count(0)
    expect(reader.page.locator("#empty")).to_be_visible()
    reader.button("Undo").click()
    expect(reader.conversations).to_have_text(["keep me"])
    reader.conversations.first.click()
    expect(reader.said).to_have_text("Hello, wörld!")


def test_one_is_exported_as_markdown(reader: Reader) -> None:
    reader.chat("Hello there", "thinker")
    reader.conversations.first.hover()
    with reader.page.expect_download() as download:
        reader.button("Export Hello there").click()
    assert download.value.suggested_filename == "hello-there.md"
    text = file(download.value)
    assert text.startswith("# Hello there\n\n## You\n\nHello there\n\n## thinker\n")
    assert text.endswith("Hello, you.\n")


def test_all_are_exported_and_imported(reader: Reader, tmp_path: Path) -> None:
    reader.chat("one", "hello")
    reader.button("New chat").click()
    reader.chat("two", "hello")
    reader.button("Settings").click()
    with reader.page.expect_download() as download:
        reader.button("Export all").click()
    exported = file(download.value)
    assert sorted(each["title"] for each in json.loads(exported)["conversations"]) == ["one", "two"]
    reader.button("Delete all").click()
    reader.button("Delete", reader.page.get_by_role("dialog", name="Are you sure?")).click()
    expect(reader.conversations).to_have_count(0)

    def take(text: str) -> None:
        path = tmp_path / "conversations.json"
        path.write_text(text)
        with reader.page.expect_file_chooser() as chooser:
            reader.button("Import").click()
        chooser.value.set_files(str(path))

    take("{}")
    expect(reader.page.locator(".toast")).to_contain_text("not an export of this page")
    take(exported)
    expect(reader.page.locator(".toast")).to_contain_text("Imported 2 of 2")
    take(exported)
    expect(reader.page.locator(".toast")).to_contain_text("Imported 0 of 2")
    reader.page.keyboard.press("Escape")
    reader.conversations.filter(has_text="one").click()
    expect(reader.said).to_have_text("Hello, wörld!")


def test_a_draft_survives_a_reload_and_is_gone_once_sent(reader: Reader) -> None:
    reader.box.fill("not yet")
    reader.reload()
    expect(reader.box).to_have_value("not yet")
    reader.page.select_option("#model", "hello")
    reader.box.press("Enter")
    reader.settled()
    reader.box.fill("for this one")
    reader.button("New chat").click()
    expect(reader.box).to_have_value("")
    reader.conversations.first.click()
    expect(reader.box).to_have_value("for this one")


def test_another_tab_sees_what_this_one_does(reader: Reader) -> None:
    other = Reader(reader.page.context.new_page(), reader.node, reader.watch)
    reader.chat("said here", "hello")
    expect(other.conversations).to_have_text(["said here"])
    other.conversations.first.click()
    expect(other.said).to_have_text("Hello, wörld!")
    reader.chat("and more")
    expect(other.questions).to_have_text(["said here", "and more"])
