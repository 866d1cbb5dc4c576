import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Text, ToolCall
from exo.text.calls import DEEPSEEK, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, Reader, Style, parse, style_of
from exo.text.channels import Channels

STYLES = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "args": MISTRAL_ARGS, "deepseek": DEEPSEEK}
# As models of each family write two calls by themselves, one where they cannot write more.
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
    '<tool_call>{"arguments": {}, "name": "now"}</tool_call>',
    "llama": '{"name": "add", "parameters": {"a": 1}}',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "now", "arguments": {}}]',
    "args": '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[ARGS]{}',
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
    '{"a": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
}
ADD, NOW = ("add", '{"a":1}'), ("now", "{}")


def through(raw: str, style: Style, cut: int = 1) -> tuple[list[tuple[str, str]], str]:
    channels = Channels(style=style)
    pieces = [raw[at : at + cut] for at in range(0, len(raw), cut)]
    deltas = [delta for piece in pieces for delta in channels.feed(piece)] + channels.finish()
    calls = [(delta.name, delta.arguments) for delta in deltas if isinstance(delta, ToolCall)]
    return calls, "".join(delta.text for delta in deltas if isinstance(delta, Text))


@pytest.mark.parametrize("cut", [1, 7, 1000])
@pytest.mark.parametrize("name", STYLES)
def test_calls_are_read_as_each_family_writes_them(name: str, cut: int) -> None:
    expected = [ADD] if name == "llama" else [ADD, NOW]
    assert through(WRITTEN[name], STYLES[name], cut) == (expected, "")


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Bob", "age": 7}',
        '{"sum": 3}',
        'Here: {"name": "add", "parameters": {}}',
        '{"name": "add", "parameters": {"a": 1}',
        '{"name": "add", "parameters": [1]}',
        '{"nam',
        "{",
    ],
)
def test_an_answer_in_json_is_no_call(answer: str, cut: int) -> None:
    assert through(answer, LLAMA, cut) == ([], answer)


@pytest.mark.parametrize("opening", LLAMA.openings)
def test_every_opening_opens_a_call(opening: str) -> None:
    assert through(opening + 'add", "parameters": {"a": 1}}', LLAMA) == ([ADD], "")


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("damage", [0, 3, -2])
def test_what_is_no_call_is_text_again(name: str, damage: int) -> None:
    style, raw = STYLES[name], WRITTEN[name]
    start = len(style.openings[0]) + damage if damage >= 0 else damage
    broken = raw[:start] + "\0" + raw[start:]
    calls, text = through(broken, style)
    assert text or calls
    for _, arguments in calls:
        assert isinstance(json.loads(arguments), dict)


def test_a_list_with_one_call_that_is_none_is_no_call_at_all() -> None:
    assert parse(MISTRAL, "[TOOL_CALLS]", '[{"name": "add", "arguments": {}}, {"name": 5}]') is None
    assert parse(MISTRAL, "[TOOL_CALLS]", "[]") is None
    assert parse(MISTRAL_ARGS, "[TOOL_CALLS]", 'add[ARGS]{"a": NaN}') is None
    assert parse(MISTRAL_ARGS, "[TOOL_CALLS]", "add[ARGS]{} and") is None
    assert parse(MISTRAL_ARGS, "[TOOL_CALLS]", "[ARGS]{}") is None


awkward = st.sampled_from(["}\n</tool_call>", '"}', "\\", "{["])
objects = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=6) | awkward,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)


@pytest.mark.parametrize("name", STYLES)
@given(
    calls=st.lists(st.tuples(st.sampled_from(["add", "get_now", "x-1"]), objects), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 9), max_size=40),
)
def test_calls_held_to_their_form_come_out_as_they_arrive(
    name: str, calls: list[tuple[str, dict[str, object]]], cuts: list[int]
) -> None:
    style = STYLES[name]
    if not style.next:
        calls = calls[:1]
    written = [called + style.before_arguments + json.dumps(given) for called, given in calls]
    raw = style.before_name + style.next.join(written) + style.end
    reader, found, at = Reader(style), [["", ""] for _ in calls], 0
    for size in (*cuts, len(raw)):
        for delta in reader.feed(raw[at : at + size]):
            if delta.name:
                assert found[delta.index] == ["", ""]
            found[delta.index][0] += delta.name
            found[delta.index][1] += delta.arguments
        at += size
    assert found == [[called, json.dumps(given)] for called, given in calls]


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("{{ messages }}", None),
        ("{{ tools }} <tool_call>", HERMES),
        ("{{ tools }}", HERMES),
        ('{{ tools }} <|python_tag|> {"name": function name, "parameters": ', LLAMA),
        ("{{ tools }} [TOOL_CALLS]", MISTRAL),
        ("{{ tools }} [TOOL_CALLS] [ARGS]", MISTRAL_ARGS),
        ("{{ tools }} <｜tool▁calls▁begin｜>", DEEPSEEK),
    ],
)
def test_the_template_tells_the_way(template: str, style: Style | None) -> None:
    assert style_of(template) == style
