"""How the page is used by hand, by keyboard, on a phone, in the dark, and by who does not see it."""

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Locator, expect

from .browser import PHONE
from .driver import Reader

SMALL = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}


def assert_fits(reader: Reader) -> None:
    """Nothing is wider than the page."""
    wide = reader.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], wide
    scroll = reader.page.evaluate("""() => {
        const { scrollWidth, clientWidth } = document.getElementById("scroll");
        return [scrollWidth, clientWidth];
    }""")
    assert scroll[0] <= scroll[1], scroll


@pytest.mark.parametrize("options", [SMALL, {**SMALL, "viewport": PHONE}], ids=["360", "390"])
def test_a_phone_is_wide_enough(reader: Reader) -> None:
    assert_fits(reader)
    reader.chat("A" * 300, "showcase")
    assert_fits(reader)
    reader.chat("and an error", "breaks-midway")
    assert_fits(reader)
    box = reader.page.locator("#composer").bounding_box()
    height = reader.page.viewport_size
    assert box is not None
    assert height is not None
    assert box["y"] + box["height"] <= height["height"]
    # The conversations are in a drawer.
    drawer = reader.page.get_by_role("navigation", name="Conversations")
    expect(drawer).to_be_hidden()
    reader.button("Open the conversations").click()
    expect(drawer).to_be_visible()
    reader.button("New chat").click()
    expect(drawer).to_be_hidden()
    reader.chat("hi", "hello")
    expect(reader.said).to_have_text("Hello, wörld!")
    for name in ("Models", "Cluster", "Settings of this conversation"):
        reader.button(name).click()
        assert_fits(reader)
        reader.page.keyboard.press("Escape")


def test_everything_can_be_done_by_keyboard(reader: Reader) -> None:
    page = reader.page
    keys = page.keyboard
    expect(reader.box).to_be_focused()
    page.select_option("#model", "hello")
    reader.box.focus()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    expect(reader.box).to_have_value("one\ntwo")
    keys.press("Enter")
    reader.settled()
    expect(reader.questions).to_have_text(["one\ntwo"])
    expect(reader.box).to_be_focused()
    keys.press("Control+Shift+O")
    expect(page.locator("#empty")).to_be_visible()
    expect(reader.box).to_be_focused()
    keys.press("Control+k")
    expect(page.get_by_role("searchbox")).to_be_focused()
    keys.press("ArrowDown")
    expect(reader.conversations.first).to_be_focused()
    keys.press("Enter")
    expect(reader.questions).to_have_text(["one\ntwo"])
    keys.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.select_option("#model", "hangs")
    reader.box.focus()
    keys.type("wait?")
    keys.press("Enter")
    expect(reader.said).to_have_text("It has begun")
    keys.press("Escape")
    expect(reader.answer).to_contain_text("Stopped")


def test_a_panel_is_opened_and_left_by_keyboard(reader: Reader) -> None:
    opener = reader.button("Models")
    opener.focus()
    reader.page.keyboard.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    expect(reader.button("Close the models")).to_be_focused()
    reader.page.keyboard.press("Escape")
    expect(opener).to_have_attribute("aria-expanded", "false")
    expect(opener).to_be_focused()


def test_the_first_tab_skips_to_the_box(reader: Reader) -> None:
    assert (
        reader.page.evaluate("document.body.querySelector('a, button, input, textarea').className") == "skip"
    )
    skip = reader.page.get_by_role("link", name="Skip to the message box")
    expect(skip).not_to_be_in_viewport()
    skip.focus()
    expect(skip).to_be_in_viewport()
    reader.page.keyboard.press("Enter")
    expect(reader.box).to_be_focused()


def test_enter_that_ends_a_composed_character_sends_nothing(reader: Reader) -> None:
    session = reader.page.context.new_cdp_session(reader.page)
    reader.box.focus()
    session.send("Input.imeSetComposition", {"text": "に", "selectionStart": 1, "selectionEnd": 1})
    reader.box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    reader.box.dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    session.send("Input.insertText", {"text": "日本"})
    expect(reader.box).to_have_value("日本")
    expect(reader.questions).to_have_count(0)


def test_who_reads_back_is_left_there(reader: Reader) -> None:
    reader.chat("many", "lines")
    scroll = reader.page.locator("#scroll")
    left = "(it) => Math.round(it.scrollHeight - it.clientHeight - it.scrollTop)"
    expect(reader.button("Jump to latest")).to_be_hidden()
    assert scroll.evaluate(left) <= 1
    reader.ask("more", "paced")
    expect(reader.said).to_contain_text("word3")
    assert scroll.evaluate(left) <= 1
    scroll.hover()
    reader.page.mouse.wheel(0, -600)
    jump = reader.button("Jump to latest")
    expect(jump).to_be_visible()
    before = scroll.evaluate("(it) => it.scrollTop")
    reader.settled()
    assert scroll.evaluate("(it) => it.scrollTop") == before
    jump.click()
    expect(jump).to_be_hidden()
    assert scroll.evaluate(left) <= 1


def test_the_theme_is_the_systems_until_it_is_chosen(reader: Reader) -> None:
    page = reader.page
    body = page.locator("body")
    light, dark = "rgb(255, 255, 255)", "rgb(21, 25, 26)"
    expect(body).to_have_css("background-color", light)
    page.emulate_media(color_scheme="dark")
    expect(body).to_have_css("background-color", dark)
    reader.button("Theme: automatic").click()
    expect(body).to_have_css("background-color", light)
    reader.button("Theme: light").click()
    page.emulate_media(color_scheme="light")
    expect(body).to_have_css("background-color", dark)
    reader.reload()
    expect(body).to_have_css("background-color", dark)
    expect(reader.button("Theme: dark")).to_be_visible()


CONTRAST = """(element) => {
    const light = (color) => {
        const parts = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
        const linear = parts.map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    let behind = element;
    const seen = (each) => getComputedStyle(each).backgroundColor;
    while (behind && /, 0\\)$|^transparent$/.test(seen(behind))) behind = behind.parentElement;
    const a = light(getComputedStyle(element).color);
    const b = light(behind ? seen(behind) : "rgb(255, 255, 255)");
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=["light", "dark"]
)
def test_all_text_can_be_read(reader: Reader) -> None:
    """WCAG AA: 4.5 to 1."""
    reader.chat("hi", "showcase")
    expect(reader.said.locator(".hljs-keyword").first).to_be_visible()
    reader.chat("hi", "breaks-midway")
    reader.answer.locator(".figures").first.hover()
    texts = reader.page.locator(
        "#messages :is(p, li, td, th, h2, a, summary, code, .said, [class^=hljs], .figures, button span), "
        ".sidebar :is(a, button), .top :is(select, button), .hint, .brand"
    )
    low = {
        (each.inner_text()[:30], round(contrast, 2))
        for each in texts.all()
        if each.is_visible() and each.inner_text().strip() and (contrast := each.evaluate(CONTRAST)) < 4.5
    }
    assert not low, low


def names(reader: Reader) -> list[str]:
    """What is announced of everything that can be pressed or written in."""
    lines = reader.page.locator("body").aria_snapshot().splitlines()
    return [line.strip() for line in lines]


def test_everything_has_a_name(reader: Reader) -> None:
    reader.chat("hi", "showcase")
    reader.chat("hi", "breaks-midway")
    reader.conversations.first.hover()
    nameless = re.compile(r"- (button|textbox|searchbox|combobox|link|checkbox|spinbutton)(:| \[[^\]]*\])*$")
    for opened in ("", "Settings of this conversation", "Settings", "Models", "Cluster"):
        if opened:
            reader.button(opened).click()
        found = names(reader)
        assert any("button" in line for line in found)
        assert not [line for line in found if nameless.match(line)], opened
        reader.page.keyboard.press("Escape")


def test_headings_and_landmarks_are_there(reader: Reader) -> None:
    page = reader.page
    for role, name in (("navigation", "Conversations"), ("main", "Conversation"), ("banner", None)):
        expect(page.get_by_role(role, **({"name": name} if name else {}))).to_be_visible()  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.lang") == "en"


def test_begin_and_end_of_an_answer_are_announced_and_not_each_word(reader: Reader) -> None:
    page = reader.page
    page.evaluate("""
        window.heard = [];
        new MutationObserver(() => {
            const said = document.getElementById("announcer").textContent;
            if (said) window.heard.push(said);
        }).observe(document.getElementById("announcer"), { childList: true });
    """)
    reader.chat("hi", "paced")
    page.wait_for_function("() => window.heard.length >= 2")
    assert page.evaluate("window.heard") == ["The answer begins", "The answer is there"]
    live = page.locator("#messages [aria-live]:not([aria-live=off]), #messages[aria-live]")
    expect(live).to_have_count(0)


@pytest.mark.parametrize("options", [{"reduced_motion": "no-preference"}], ids=["moving"])
def test_the_focus_can_be_seen_wherever_it_is(reader: Reader) -> None:
    reader.chat("hi", "hello")
    reader.page.locator(".skip").focus()
    seen: list[str] = []
    for _ in range(12):
        reader.page.keyboard.press("Tab")
        focused = reader.page.locator(":focus")
        assert outlined(focused), focused.evaluate("(it) => it.outerHTML.slice(0, 200)")
        seen.append(focused.evaluate("(it) => it.outerHTML.slice(0, 80)"))
    assert all(one != other for one, other in pairwise(seen))


def outlined(element: Locator) -> bool:
    shown: bool = element.evaluate("""(it) => {
        const own = getComputedStyle(it);
        const around = it.closest(".composer");
        const ring = around && getComputedStyle(around).boxShadow !== "none";
        return (own.outlineStyle !== "none" && parseFloat(own.outlineWidth) > 0) || Boolean(ring);
    }""")
    return shown
