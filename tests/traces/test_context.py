"""The headers that carry a trace from one server to the next: W3C Trace Context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Trace
from exo.traces.context import headers, read

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

hexes = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: text.strip("0"))


@given(
    trace=hexes,
    span=hexes,
    flags=st.integers(0, 255),
    state=st.from_regex(r"[a-z]{1,9}=[!-+]{1,20}", fullmatch=True),
)
def test_what_is_read_is_passed_on_as_it_was(trace: str, span: str, flags: int, state: str) -> None:
    parent = f"00-{trace}-{'1' + span[:15]}-{flags:02x}"
    found = read([parent], [state])
    assert found == Trace(parent, state)
    assert headers(found) == {"traceparent": parent, "tracestate": state}


@given(st.lists(st.text(), max_size=2), st.lists(st.text(), max_size=3))
def test_nothing_that_comes_breaks_it_and_no_line_end_goes_on(parents: list[str], states: list[str]) -> None:
    sent = "".join(headers(read(parents, states)).values())
    assert sent.isascii()
    assert not {"\r", "\n"} & set(sent)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{SPAN}-01",  # a version that is forbidden
        f"00-{TRACE}-{SPAN}-01-more",  # which its version does not have
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\r\nx-more: 1",
    ],
)
def test_what_is_no_traceparent_is_none_and_takes_the_state_along(parent: str) -> None:
    assert read([parent], ["a=b"]) == Trace()
    assert headers(Trace()) == {}


def test_two_of_them_are_none() -> None:
    assert read([PARENT, PARENT]) == Trace()


def test_a_later_version_is_understood_as_far_as_it_is_known() -> None:
    assert read([f"cc-{TRACE}-{SPAN}-01-what-the-future-has"]).parent == PARENT


def test_several_states_are_one() -> None:
    assert read([PARENT], ["a=1", "b=2"]).state == "a=1,b=2"


@pytest.mark.parametrize("state", ["a=" + "x" * 512, "a=ü", "a=1\r\nx-more: 1"])
def test_a_state_that_cannot_be_passed_on_leaves_the_trace_as_it_is(state: str) -> None:
    assert read([PARENT], [state]) == Trace(PARENT)
