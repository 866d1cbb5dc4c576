"""What is set for a conversation is what is sent."""

import json

from playwright.sync_api import expect

from .driver import Reader
from .test_chat import CHAT


def body_of(reader: Reader, question: str) -> dict[str, object]:
    with reader.page.expect_request(CHAT) as request:
        reader.chat(question)
    body: dict[str, object] = json.loads(request.value.post_data or "")
    return body


def tune(reader: Reader, **values: str) -> None:
    reader.button("Settings of this conversation").click()
    for label, value in values.items():
        field = reader.page.get_by_label(label.replace("_", " "), exact=True)
        if label == "Thinking":
            field.select_option(label=value)
        else:
            field.fill(value)
            field.press("Tab")


def test_settings_are_sent_and_kept(reader: Reader) -> None:
    reader.page.select_option("#model", "hello")
    tune(
        reader,
        System_prompt="Be brief.",
        Temperature="0",
        Top_p="0.5",
        Max_tokens="9",
        Seed="7",
        Thinking="Off",
    )
    reader.page.keyboard.press("Escape")
    body = body_of(reader, "hi")
    assert body == {
        "model": "hello",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 9,
        "seed": 7,
        "enable_thinking": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reader.reload()
    assert body_of(reader, "again")["seed"] == 7
    # Another conversation has its own.
    reader.button("New chat").click()
    assert "seed" not in body_of(reader, "anew")


def test_a_value_that_cannot_be_is_told_of_and_not_sent(reader: Reader) -> None:
    reader.page.select_option("#model", "hello")
    tune(reader, Temperature="3")
    field = reader.page.get_by_label("Temperature")
    assert not field.evaluate("(input) => input.checkValidity()")
    reader.page.keyboard.press("Escape")
    assert "temperature" not in body_of(reader, "hi")


def test_defaults_are_what_new_conversations_begin_with(reader: Reader) -> None:
    reader.page.select_option("#model", "hello")
    tune(reader, Seed="11")
    reader.button("Use as defaults").click()
    reader.page.keyboard.press("Escape")
    reader.button("New chat").click()
    assert body_of(reader, "hi")["seed"] == 11
    tune(reader, Seed="12")
    reader.button("Reset to defaults").click()
    expect(reader.page.get_by_label("Seed")).to_have_value("11")


def test_the_model_is_the_conversations_own(reader: Reader) -> None:
    reader.chat("one", "hello")
    reader.button("New chat").click()
    reader.chat("two", "thinker")
    reader.conversations.filter(has_text="one").click()
    expect(reader.page.locator("#model")).to_have_value("hello")
    reader.button("New chat").click()
    expect(reader.page.locator("#model")).to_have_value("thinker")
