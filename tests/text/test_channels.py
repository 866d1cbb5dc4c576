import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from time import perf_counter
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exo.chat import Alternative, Delta, Reasoning, Text, TokenLogprob, ToolCall
from exo.text.calls import HERMES, Style
from exo.text.channels import Channels
from exo.text.thoughts import FAMILIES, Tags, opens_thoughts, tags_of

Item: TypeAlias = tuple[str, ...]  # ("reasoning", text), ("text", text) or ("call", name, arguments)
Options: TypeAlias = dict[str, Any]

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
ADDED = ("call", "add", '{"a":1,"b":[2]}')


def items(deltas: Iterable[Delta]) -> list[Item]:
    """The deltas with neighbours of one kind joined, and without what chance decides (ids)."""
    found: list[Item] = []
    for delta in deltas:
        if isinstance(delta, ToolCall):
            assert re.fullmatch("call_[0-9a-f]{24}", delta.id)
            assert delta.index == sum(item[0] == "call" for item in found)
            found.append(("call", delta.name, delta.arguments))
            continue
        assert isinstance(delta, Text | Reasoning)
        assert delta.text, "an empty delta"
        kind = "text" if isinstance(delta, Text) else "reasoning"
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + delta.text)
        else:
            found.append((kind, delta.text))
    return found


def run(pieces: Iterable[str | bytes], **options: Any) -> tuple[list[Item], Channels]:
    channels = Channels(**options)
    deltas = [delta for piece in pieces for delta in channels.feed(piece)]
    deltas += channels.finish()
    assert channels.finish() == []
    assert channels.called == any(isinstance(delta, ToolCall) for delta in deltas)
    return items(deltas), channels


def text(answer: str) -> list[Item]:
    return [("text", answer)]


def both(reasoning: str, answer: str) -> list[Item]:
    return [("reasoning", reasoning), ("text", answer)]


# One table: raw text, options, what comes out, whether it stopped. Each row is fed whole, by character
# and by byte.
ROWS: dict[str, tuple[str, Options, list[Item], bool]] = {
    "nothing": ("", {}, [], False),
    "plain text": ("Hello, wörld 🦙", {}, text("Hello, wörld 🦙"), False),
    "leading whitespace of an answer is kept": (" \n Hi \n", {}, text(" \n Hi \n"), False),
    "only whitespace": (" \n", {}, text(" \n"), False),
    # reasoning
    "think block": ("<think>\nhm, 2\n</think>\n\n4", {}, both("hm, 2", "4"), False),
    "think block after whitespace": (" \n<think>hm</think>4", {}, both("hm", "4"), False),
    "empty think block": ("<think>\n\n</think>\n\n4", {}, text("4"), False),
    "whitespace within reasoning stays": ("<think>a \n b</think>c", {}, both("a \n b", "c"), False),
    "never closed": ("<think> hm, \n", {}, [("reasoning", "hm, \n")], False),
    "never closed, half a tag": ("<think>hm</thin", {}, [("reasoning", "hm</thin")], False),
    "half an opening tag": (" <thin", {}, text(" <thin"), False),
    "almost an opening tag": (" <thing>", {}, text(" <thing>"), False),
    "opening tag inside the answer": ("Use <think>x</think>", {}, text("Use <think>x</think>"), False),
    "second block is text": (
        "<think>a</think>b<think>c</think>", {}, both("a", "b<think>c</think>"), False,
    ),
    "second block right behind is text": ("<think></think> <think>", {}, text("<think>"), False),
    "raw text opens no thought": ("<think>x</think>", {"raw": True}, text("<think>x</think>"), False),
    "nested opening tag": ("<think><think>a</think>b", {}, both("<think>a", "b"), False),
    "first closing tag closes": ("<think>a</think>b</think>c", {}, both("a", "b</think>c"), False),
    "closing tag only": ("a</think>b", {}, text("a</think>b"), False),
    "opened by the prompt": ("\nhm\n</think>\n\n4", {"thinking": True}, both("hm", "4"), False),
    "opened by both": ("\n<think>\nhm</think>4", {"thinking": True}, both("hm", "4"), False),
    "opened by the prompt, closed at once": (" </think> 4", {"thinking": True}, text("4"), False),
    "opened by the prompt, half a tag": (" <thin", {"thinking": True}, [("reasoning", "<thin")], False),
    "opened by the prompt, only whitespace": (" \n", {"thinking": True}, [], False),
    **{
        f"{tags.begin} of its family": (
            f"{tags.begin}\nhm{tags.begin}</x>\n{tags.end}\n\n4{tags.end}",
            {"tags": tags},
            both(f"hm{tags.begin}</x>", f"4{tags.end}"),
            False,
        )
        for tags in FAMILIES
    },
    "another family's tags are text": ("[THINK]x[/THINK]", {}, text("[THINK]x[/THINK]"), False),
    "a tag in code is code": (
        "Use `<think>`:\n```\n<think>\nx\n</think>\n```",
        {},
        text("Use `<think>`:\n```\n<think>\nx\n</think>\n```"),
        False,
    ),
    # stop strings
    "stop": ("one two three", {"stop": ["two"]}, text("one "), True),
    "stop at once": ("two", {"stop": ["two"]}, [], True),
    "half a stop string": ("one tw", {"stop": ["two"]}, text("one tw"), False),
    "false start": ("aab", {"stop": ["ab"]}, text("a"), True),
    "overlapping false start": ("abababx", {"stop": ["ababx"]}, text("ab"), True),
    "the one completed first": ("xabcdx", {"stop": ["abcd", "bc"]}, text("xa"), True),
    "same end: the one that starts first": ("xabcx", {"stop": ["bc", "abc"]}, text("x"), True),
    "empty stop strings are none": ("abc", {"stop": [""]}, text("abc"), False),
    "stop of many bytes": ("a🦙🦙b", {"stop": ["🦙🦙"]}, text("a"), True),
    "stop ignores reasoning": ("<think>STOP</think>b STOP c", {"stop": ["STOP"]}, both("STOP", "b "), True),
    "stop ignores tags": ("<think>a</think>b", {"stop": ["<", "think"]}, both("a", "b"), False),
    "stop does not see dropped whitespace": ("<think>a</think>\nb", {"stop": ["\n"]}, both("a", "b"), False),
    "stop sees whitespace of an answer": ("\nb", {"stop": ["\n"]}, [], True),
    "stop ignores tool calls": (CALL, {"stop": ["add", "<", "\n"], "style": HERMES}, [ADDED], False),
    "stop behind a tool call": (
        CALL + "aSTOP", {"stop": ["STOP"], "style": HERMES}, [ADDED, *text("a")], True,
    ),
    "stop before a tool call": ("a STOP" + CALL, {"stop": ["STOP"], "style": HERMES}, text("a "), True),
    "stop not across a tool call": (
        f"ST{CALL}OP", {"stop": ["STOP"], "style": HERMES}, [*text("ST"), ADDED, *text("OP")], False,
    ),
    "stop across what is no tool call": (
        "a<tool_call>b", {"stop": ["a<tool"], "style": HERMES}, [], True,
    ),
    "half a stop string before no tool call": (
        "x<tool_call></tool_call>",
        {"stop": ["x<y"], "style": HERMES},
        text("x<tool_call></tool_call>"),
        False,
    ),
    # special tokens
    "end": ("a<|e|>b", {"ends": ["<|e|>"]}, text("a"), True),
    "end in reasoning": ("<think>a \n<|e|>", {"ends": ["<|e|>"]}, [("reasoning", "a \n")], True),
    "end at the start": (" <|e|>", {"ends": ["<|e|>"]}, text(" "), True),
    "end closes a tool call": (
        CALL.removesuffix("</tool_call>") + "<|e|>", {"ends": ["<|e|>"], "style": HERMES}, [ADDED], True,
    ),
    "end releases half a stop string": ("aST<|e|>", {"ends": ["<|e|>"], "stop": ["STOP"]}, text("aST"), True),
    "half an end that holds a stop string": ("a<|e", {"ends": ["<|e|>"], "stop": ["<|"]}, text("a"), True),
    "half an end": ("a<|e", {"ends": ["<|e|>"]}, text("a<|e"), False),
    "end nobody named": ("a</s>b", {}, text("a</s>b"), False),
    "hidden": ("<|h|>a<|h|><|h|>b<|h|>", {"hidden": ["<|h|>"]}, text("ab"), False),
    "hidden in reasoning": ("<|h|><think>a<|h|>b</think>c", {"hidden": ["<|h|>"]}, both("ab", "c"), False),
    "hidden leaves no gap": ("<th<|h|>ink>a</th<|h|>ink>b", {"hidden": ["<|h|>"]}, both("a", "b"), False),
    "hidden in a stop string": ("aST<|h|>OP", {"hidden": ["<|h|>"], "stop": ["STOP"]}, text("a"), True),
    "both ending and hidden": ("a<|e|>b", {"ends": ["<|e|>"], "hidden": ["<|e|>"]}, text("a"), True),
    # tool calls
    "call": (CALL, {"style": HERMES}, [ADDED], False),
    "calls": (f"a \n{CALL}\n{CALL} b", {"style": HERMES}, [*text("a"), ADDED, ADDED, *text("b")], False),
    "whitespace around a call": (f" {CALL}\n", {"style": HERMES}, [ADDED], False),
    "call behind reasoning": (
        f"<think>a</think>\n{CALL}", {"style": HERMES}, [("reasoning", "a"), ADDED], False,
    ),
    "call in reasoning is reasoning": (f"<think>{CALL}", {"style": HERMES}, [("reasoning", CALL)], False),
    "no tools": (f"a {CALL} b", {}, text(f"a {CALL} b"), False),
    "parameters": (
        '<tool_call>{"name":"f","parameters":{}}</tool_call>',
        {"style": HERMES},
        [("call", "f", "{}")],
        False,
    ),
    "arguments stay unescaped": (
        '<tool_call>{"name":"f","arguments":{"s":"\\u00e9 🦙"}}</tool_call>',
        {"style": HERMES}, [("call", "f", '{"s":"é 🦙"}')], False,
    ),
    "unclosed call": (CALL.removesuffix("</tool_call>"), {"style": HERMES}, [ADDED], False),
    "half a call": (" <tool_call>{", {"style": HERMES}, text(" <tool_call>{"), False),
    "half a closing tag": (f"{CALL[:-1]}", {"style": HERMES}, text(CALL[:-1]), False),
    "half an opening tag of a call": ("a <tool_c", {"style": HERMES}, text("a <tool_c"), False),
    "calls around no call": (
        f"{CALL} <tool_call>?</tool_call> {CALL}",
        {"style": HERMES}, [ADDED, *text("<tool_call>?</tool_call>"), ADDED], False,
    ),
    "trailing whitespace is kept with tools": ("a \n", {"style": HERMES}, text("a \n"), False),
}  # fmt: skip

NO_CALLS = [
    "", "x", "{", "[]", "null", "1", '"name"', "{}",
    '{"name": "f"}', '{"arguments": {}}', '{"name": 1, "arguments": {}}', '{"name": "", "arguments": {}}',
    '{"name": "f", "arguments": "{}"}', '{"name": "f", "arguments": [], "parameters": {}}',
    '{"name": "f", "arguments": {"a": NaN}}', '{"name": "f", "arguments": {"a": 1e999}}',
    '{"name": "f", "arguments": {"a": "\\ud800"}}', '{"name": "\\ud800", "arguments": {}}',
    '{"name": "f", "arguments": {}} x', '{"name": "f", "arguments": {"a": ' + "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("chunking", ["whole", "characters", "bytes"])
def test_rule(name: str, chunking: str) -> None:
    raw, options, expected, stopped = ROWS[name]
    pieces: Iterable[str | bytes] = [raw]
    if chunking == "characters":
        pieces = raw
    elif chunking == "bytes":
        pieces = [bytes([byte]) for byte in raw.encode()]
    found, channels = run(pieces, **options)
    assert (found, channels.stopped) == (expected, stopped)


@pytest.mark.parametrize("body", NO_CALLS, ids=lambda body: body[:60])
def test_a_body_that_is_no_call_is_text_unchanged(body: str) -> None:
    raw = f"a \n<tool_call>{body}</tool_call> \n b"
    assert run([raw], style=HERMES)[0] == text(raw)


def test_text_needs_no_more_than_its_own_piece() -> None:
    channels = Channels(stop=["STOP"], style=HERMES, ends=["<|e|>"], hidden=["<|h|>"])
    for piece in ["Hello", ",", " world", "!\n\nNow", " é", " 🦙"]:
        assert channels.feed(piece) == [Text(piece)]


@pytest.mark.parametrize(
    ("options", "pieces", "deltas"),
    [
        ({"stop": ["STOP"]}, ["a", " ST", "AY", "S", " "], ["a", " ", "STAY", None, "S "]),
        ({"style": HERMES}, ["a ", "b", " <to", "day"], ["a", " b", None, " <today"]),
        ({}, ["a ", "<tool_call>", "<think>"], ["a ", "<tool_call>", "<think>"]),
        ({}, [" ", "<thi", "s>"], [None, None, " <this>"]),
        ({}, ["<think>", "a ", "b", "</", "b>"], [None, "a", " b", None, "</b>"]),
        ({"ends": ["<|e|>"]}, ["a", "<", "|e", "|x"], ["a", None, None, "<|e|x"]),
    ],
)
def test_held_back_no_longer_than_needed(
    options: Options, pieces: list[str], deltas: list[str | None]
) -> None:
    channels = Channels(**options)
    for piece, expected in zip(pieces, deltas, strict=True):
        found = channels.feed(piece)
        assert "".join(d.text for d in found if isinstance(d, Text | Reasoning)) == (expected or "")


def test_stop_is_known_with_the_piece_that_completes_it() -> None:
    channels = Channels(stop=["STOP", "STOPPED"])
    assert channels.feed("a ST") == [Text("a ")]
    assert not channels.stopped
    assert channels.feed("OP") == []
    assert channels.stopped
    assert channels.feed("b") == channels.finish() == []


def test_incomplete_character_at_the_end() -> None:
    channels = Channels()
    assert channels.feed(b"a\xf0\x9f\xa6") == [Text("a")]
    assert channels.finish() == [Text("\N{REPLACEMENT CHARACTER}")]


def test_a_str_piece_ends_an_incomplete_character() -> None:
    assert run([b"a\xf0\x9f", "b"])[0] == text("a\N{REPLACEMENT CHARACTER}b")


def test_reasoning_tokens() -> None:
    channels = Channels()
    for piece in ["<", "think>", "\n", "a", " b", "</", "think>", "\n\n", "c"]:
        channels.feed(piece)
    assert channels.reasoning_tokens == 5  # newline, a, b and the two of the closing tag

    channels = Channels(thinking=True)
    channels.feed("a", tokens=3)
    channels.feed("</think>")
    channels.feed("b", tokens=5)
    assert channels.reasoning_tokens == 4


def label(number: int) -> TokenLogprob:
    return TokenLogprob(Alternative(str(number), -1.0, ()))


def labels(deltas: Iterable[Delta]) -> list[tuple[str, list[int]]]:
    return [(d.text, [int(one.chosen.token) for one in d.logprobs]) for d in deltas if isinstance(d, Text)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a", "b"], [("a", [0]), ("b", [1])]),
        (["a S", "T", "AY"], [("a ", [0]), ("STAY", [1, 2])]),
        (["a ST", "OP"], [("a ", [0])]),
        (["<think>", "a", "</think>", "\n", "b"], [("b", [4])]),
        (["<think>a</think>\nb", "c"], [("b", [0]), ("c", [1])]),
        (
            ["a ", "<tool_call>", "{}", "</tool_call>b"],
            [("a", [0]), (" <tool_call>{}</tool_call>", [1, 2, 3]), ("b", [])],
        ),
        (["a ", CALL, "b"], [("a", [0]), ("b", [2])]),
        (["a ", "<|h|>", "b"], [("a", [0]), (" b", [2])]),
        (["<", "a<|h|>b"], [("<a", [0, 1]), ("b", [])]),
        (["", "a"], [("a", [0, 1])]),
        ([b"\xf0", b"\x9f\xa6", b"\x99\xf0", b"\x9f\xa6\x99"], [("🦙", [0, 1, 2]), ("🦙", [3])]),
    ],
)
def test_logprobs_go_with_the_first_character(
    pieces: list[str | bytes], expected: list[tuple[str, list[int]]]
) -> None:
    channels = Channels(stop=["STOP"], style=HERMES, hidden=["<|h|>"])
    deltas = [d for n, piece in enumerate(pieces) for d in channels.feed(piece, logprobs=[label(n)])]
    assert labels([*deltas, *channels.finish()]) == expected


def test_logprobs_of_whitespace_before_reasoning_go_with_it() -> None:
    channels = Channels(thinking=True)
    pieces = ["\n", "a", "</think>", "b"]
    deltas = [d for n, piece in enumerate(pieces) for d in channels.feed(piece, logprobs=[label(n)])]
    assert labels(deltas) == [("b", [3])]


# An oracle that reads the whole text at once, with other means.

Span: TypeAlias = tuple[str, int, int]


def first_completed(found_in: str, strings: Sequence[str], start: int = 0) -> tuple[int, int] | None:
    ends = ((at + len(s), at) for s in strings if s and (at := found_in.find(s, start)) >= 0)
    return min(ends, default=None)


def without_specials(raw: str, ends: Sequence[str], hidden: Sequence[str]) -> tuple[list[int], bool]:
    """The positions of the characters that stay, and whether an end token came."""
    stay: list[int] = []
    at = 0
    while found := first_completed(raw, [*ends, *hidden], at):
        stay += range(at, found[1])
        at = found[0]
        if raw[found[1] : at] in ends:
            return stay, True
    return [*stay, *range(at, len(raw))], False


def parsed(body: str) -> tuple[str, dict[str, Any]] | None:
    try:
        call = json.loads(body)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    return (call["name"], arguments) if isinstance(arguments, dict) else None


def answer_spans(raw: str, start: int, tools: bool) -> Iterator[Span]:
    begin = start
    for found in re.finditer(r"\s*<tool_call>(.*?)(?:</tool_call>\s*|\Z)", raw[start:] * tools, re.DOTALL):
        if parsed(found[1]):
            yield "text", begin, max(begin, start + found.start())
            yield "call", start + found.start(1), start + found.end(1)
            begin = start + found.end()
    yield "text", begin, len(raw)


def reference(
    raw: bytes,
    *,
    stop: Sequence[str] = (),
    style: Style | None = None,
    thinking: bool = False,
    ends: Sequence[str] = (),
    hidden: Sequence[str] = (),
) -> tuple[list[Item], list[int], bool]:
    """The items, where in the decoded text the characters of the answer stood, and whether it stopped."""
    decoded = raw.decode(errors="replace")
    stay, stopped = without_specials(decoded, ends, hidden)
    seen = "".join(decoded[at] for at in stay)
    found: list[Item] = []
    origins: list[int] = []
    start = 0
    opening = re.match(r"\s*(<think>)?\s*" if thinking else r"\s*<think>\s*", seen)
    if opening:
        thought, closed, _ = seen[opening.end() :].partition("</think>")
        behind = opening.end() + len(thought) + len(closed)
        thought = thought.rstrip() if closed else thought
        found += [("reasoning", thought)] if thought else []
        start = behind + len(seen[behind:]) - len(seen[behind:].lstrip())
    for kind, begin, end in answer_spans(seen, start, style is not None):
        if kind == "call":
            name, arguments = parsed(seen[begin:end]) or ("", {})
            compact = json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
            found.append(("call", name, compact))
            continue
        hit = first_completed(seen[begin:end], stop)
        said = seen[begin : begin + hit[1]] if hit else seen[begin:end]
        found += [("text", said)] if said else []
        origins += stay[begin : begin + len(said)]
        if hit:
            return found, origins, True
    return found, origins, stopped


FRAGMENTS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", CALL, CALL[11:-12],
    "<", "</", "<t", "think", ">", "tool_call>", "<tool_", "</tool_ca", " ", "\n", "  \n",
    "<|e|>", "<|h|>", "<|", "|>", "h", "e", "Hello", " world", "a", "b", "ab", "é", "🦙", "{}",
]  # fmt: skip
LLAMA = "🦙".encode()
BROKEN = [LLAMA[:1], LLAMA[:3], LLAMA[1:], b"\xff", b"\xed\xa0\x80", b"\xc0", b"\xe2\x82"]

raws = st.lists(st.sampled_from([*(f.encode() for f in FRAGMENTS)] * 3 + BROKEN), max_size=14).map(b"".join)
reasoned = st.builds(
    lambda head, body: head + body,
    st.sampled_from([b"", b"<think>", b" \n<think>\n", b"<think></think>"]),
    raws,
)
stops = st.lists(
    st.one_of(
        st.text("ab<h \n", min_size=1, max_size=4), st.sampled_from(["<tool", "o w", "🦙", "</think>", "é🦙"])
    ),
    max_size=3,
)
options = st.fixed_dictionaries(
    {
        "stop": st.one_of(st.just([]), stops),
        "style": st.sampled_from([None, HERMES]),
        "thinking": st.booleans(),
        "ends": st.sampled_from([[], ["<|e|>"], ["<|e|>", "|>e"]]),
        "hidden": st.sampled_from([[], ["<|h|>"], ["<|h|>h", "<|h|>", "|h"]]),
    }
)


def split(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({cut % (len(raw) + 1) for cut in cuts})
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


cutting = st.one_of(st.lists(st.integers(0, 400), max_size=30), st.just(range(400)))


@settings(deadline=None, max_examples=500)
@given(reasoned, cutting, options)
def test_any_chunking_gives_what_the_whole_text_gives(
    raw: bytes, cuts: Sequence[int], options: Options
) -> None:
    found, channels = run(split(raw, cuts), **options)
    expected, _, stopped = reference(raw, **options)
    assert (found, channels.stopped) == (expected, stopped)


@settings(deadline=None, max_examples=500)
@given(reasoned, cutting, options)
def test_no_logprobs_are_lost_or_doubled(raw: bytes, cuts: Sequence[int], options: Options) -> None:
    pieces = split(raw, cuts)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    owners: list[list[int]] = []  # for each character, the pieces that end with or in it
    waiting: list[int] = []
    for number, piece in enumerate(pieces):
        waiting = [*waiting, number]
        if characters := decoder.decode(piece):
            owners += [waiting] * len(characters)
            waiting = []
    owners += [waiting] * len(decoder.decode(b"", final=True))

    channels = Channels(**options)
    deltas = [
        d for number, piece in enumerate(pieces) for d in channels.feed(piece, logprobs=[label(number)])
    ]
    found = labels([*deltas, *channels.finish()])

    _, origins, _ = reference(raw, **options)
    given: set[int] = set()
    for said, numbers in found:
        expected: list[int] = []
        for origin in origins[: len(said)]:
            expected += [number for number in owners[origin] if number not in given]
            given.update(owners[origin])
        del origins[: len(said)]
        assert numbers == expected


@settings(deadline=None, max_examples=200)
@given(reasoned, cutting, stops)
def test_a_stop_string_never_comes_out(raw: bytes, cuts: Sequence[int], stop: list[str]) -> None:
    found, _ = run(split(raw, cuts), stop=stop, style=HERMES)
    assert not [item for item in found for s in stop if item[0] == "text" and s in item[1]]


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=40), raws), cutting)
def test_nothing_is_lost(raw: bytes, cuts: Sequence[int]) -> None:
    decoded = raw.decode(errors="replace")
    assume(not decoded.lstrip().startswith("<think>"))
    found, channels = run(split(raw, cuts))
    assert "".join(item[1] for item in found) == decoded
    assert not channels.stopped


def suffixes(strings: Iterable[str]) -> set[str]:
    return {string[at:] for string in strings for at in range(len(string) + 1)}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["", "<think>", "x"]),
    st.lists(st.sampled_from(["<", "<th", "</", "[h]", "[", "]", " ", "a", "b", "[h", "think>"]), max_size=6),
    st.lists(st.text("ab<[", min_size=1, max_size=3), max_size=2),
    st.booleans(),
)
def test_only_what_the_future_decides_is_held_back(
    head: str, fragments: list[str], stop: list[str], thinking: bool
) -> None:
    """What has come out is exactly what all possible continuations agree on.

    Without `ends`: an incomplete end behind an incomplete tag would settle the tag either way, which the
    stages, each on its own, do not see; so the tag waits one more character.
    """
    raw = head + "".join(fragments)
    options: Options = {"stop": stop, "thinking": thinking, "hidden": ["[h]", "[hi]"]}
    channels = Channels(**options)
    found = items(delta for character in raw for delta in channels.feed(character))
    steps = suffixes(["<think>", "</think>", "[h]", *stop])
    futures = [
        marked(reference(f"{raw}{first}{second}x".encode(), **options)[0])
        for first in steps
        for second in steps
    ]
    agreed = takewhile(lambda at: len(set(at)) == 1, zip(*futures, strict=False))
    assert marked(found) == [at[0] for at in agreed]


def marked(found: list[Item]) -> list[Item]:
    return [(item[0], character) for item in found for character in item[1]]


WORDS, SPACES = "call of the wild", " " * 16


@pytest.mark.parametrize(
    "options",
    [{"stop": ["###"]}, {"stop": ["while"], "style": HERMES, "ends": ["<|e|>"]}],
    ids=["usual", "busy"],
)
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("x", WORDS),
        ("<think>", WORDS),
        ("<tool_call>", WORDS),
        ("", SPACES),
        ("x", SPACES),
        ("<think>x", SPACES),
    ],
)
def test_cost_of_a_token_does_not_grow_with_the_answer(options: Options, head: str, piece: str) -> None:
    channels = Channels(**options)
    channels.feed(head)
    took = []
    for _ in range(20):
        start = perf_counter()
        for _ in range(2_000):
            channels.feed(piece)
        took.append(perf_counter() - start)
    assert min(took[-5:]) < 4 * min(took[:5])


@pytest.mark.parametrize("tags", FAMILIES)
def test_the_template_tells_the_tags(tags: Tags) -> None:
    assert tags_of(f"{{{{ x }}}}{tags.begin}\n") == tags
    assert tags_of(f"{{% if '{tags.end}' in x %}}") == tags
    assert tags_of("{{ x }}") is None


def test_some_families_are_known_by_name_to_open_their_thoughts() -> None:
    assert opens_thoughts("DeepSeek-R1-1.5B")
    assert opens_thoughts("deepseek-r1-distill-qwen-7b-4bit")
    assert opens_thoughts("QwQ-32B")
    assert not opens_thoughts("Qwen3-1.7B")
