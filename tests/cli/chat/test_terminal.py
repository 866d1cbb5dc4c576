"""How an answer is printed, what is told of it, and that others' words drive no terminal."""

import io
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Delta, Finished, Reasoning, Text, Timings, ToolCall, Usage
from exo.cli.chat.answering import Answer, stats_line, to_json
from exo.cli.chat.route import Origin, origin
from exo.cli.chat.terminal import Printer, Terminal
from exo.text.harmless import harmless
from tests.cli.chat.hostile import DRIVES, HOSTILE


def printed(deltas: Sequence[Delta], *, dim: bool = False) -> str:
    out = io.StringIO()
    printer = Printer(out, dim=dim)
    for delta in deltas:
        printer.show(delta)
    printer.end()
    return out.getvalue()


# Others' words


def test_control_characters_are_shown() -> None:
    assert harmless(HOSTILE) == r"\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f\x00"
    assert harmless("a\tb\r\nc\rd 你好 👋\n") == "a\tb\nc\\x0dd 你好 👋\n"


@given(st.lists(st.text(st.characters(codec="utf-8"))), st.booleans())
def test_pieces_are_printed_as_the_whole_and_drive_nothing(pieces: list[str], thought: bool) -> None:
    kind = Reasoning if thought else Text
    whole, parts = "".join(pieces), printed([kind(piece) for piece in pieces])
    assert not DRIVES.search(parts)
    shown = harmless(whole)
    assert parts == (shown if shown.endswith("\n") or not shown else shown + "\n")


def test_messages_of_a_server_drive_nothing_either() -> None:
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal({}, out, err)
    terminal.fail(HOSTILE)
    terminal.say(HOSTILE)
    terminal.note(HOSTILE, dim=True)
    terminal.put(HOSTILE)
    assert not DRIVES.search(out.getvalue() + err.getvalue())


def test_an_encoding_that_lacks_a_character_shows_its_number() -> None:
    data = io.BytesIO()
    out = io.TextIOWrapper(data, encoding="latin-1")
    printer = Printer(out, dim=False)
    printer.show(Text("wörld 你 \ud800"))
    assert data.getvalue() == "wörld \\u4f60 \\ud800".encode("latin-1")


# An answer


def test_thoughts_are_closed_by_a_blank_line() -> None:
    deltas: list[Delta] = [Reasoning("Hm, "), Reasoning("yes."), Text("4"), Text("2"), Finished("stop")]
    assert printed(deltas) == "Hm, yes.\n\n42\n"
    assert printed(deltas, dim=True) == "\x1b[2mHm, \x1b[0m\x1b[2myes.\x1b[0m\n\n42\n"


def test_calls_are_printed_whole_on_lines_of_their_own() -> None:
    pieces: list[Delta] = [
        Text("Adding."),
        ToolCall(0, "call_1", "add", ""),
        ToolCall(0, arguments='{"a":'),
        ToolCall(0, arguments="2}"),
        ToolCall(1, "call_2", "stop", "{}"),
        Finished("tool_calls"),
    ]
    assert printed(pieces) == 'Adding.\n[calls add({"a":2})]\n[calls stop({})]\n'


@pytest.mark.parametrize(
    ("deltas", "shown"),
    [([], ""), ([Text("a\n")], "a\n"), ([Reasoning("Hm")], "Hm\n"), ([Text("a\r"), Text("\nb")], "a\nb\n")],
)
def test_what_comes_next_begins_a_line(deltas: list[Delta], shown: str) -> None:
    assert printed(deltas) == shown


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "out", "dimmed"),
    [
        ({}, _Screen(), True),
        ({"NO_COLOR": "1"}, _Screen(), False),
        ({"TERM": "dumb"}, _Screen(), False),
        ({}, io.StringIO(), False),
    ],
)
def test_only_a_terminal_that_is_not_told_otherwise_is_dimmed(
    environment: dict[str, str], out: io.StringIO, dimmed: bool
) -> None:
    terminal = Terminal(environment, out, io.StringIO())
    terminal.answer().show(Reasoning("Hm"))
    assert ("\x1b" in out.getvalue()) is dimmed


def test_what_is_said_beside_answers_stays_out_of_a_file() -> None:
    out, err = io.StringIO(), io.StringIO()
    Terminal({}, out, err).say("beside")
    assert (out.getvalue(), err.getvalue()) == ("", "beside\n")


# What is told of it


def answered(deltas: Sequence[Delta], times: Sequence[float]) -> Answer:
    """Asked for at the first of the times."""
    clock = iter(times)
    answer = Answer(lambda: next(clock))
    for delta in deltas:
        answer.take(delta)
    return answer


WHOLE = answered(
    [
        Reasoning("Hm"),
        Text("4"),
        Text("2\x9b"),
        Finished("stop", Usage(10, 3, reasoning_tokens=1, cached_tokens=4), Timings(0.25, 0.5)),
    ],
    [100.0, 100.5, 101.0, 101.5],
)


def test_json_has_the_whole_answer() -> None:
    line = to_json("hello", WHOLE, Origin(node="board"))
    assert not DRIVES.search(line)
    assert json.loads(line) == {
        "model": "hello",
        "node": "board",
        "why": "",
        "answer": "42\x9b",
        "reasoning": "Hm",
        "tool_calls": [],
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 10, "completion_tokens": 3, "reasoning_tokens": 1, "cached_tokens": 4,
        },
        "timings": {
            "ttft_seconds": 0.5, "total_seconds": 1.5, "tokens_per_second": 2.0,
            "engine_prefill_seconds": 0.25, "engine_decode_seconds": 0.5,
        },
    }  # fmt: skip


def test_json_of_an_answer_without_a_word() -> None:
    told = json.loads(to_json("auto", answered([Finished("stop")], [1.0]), Origin(model="tiny", why="auto")))
    assert (told["answer"], told["model"], told["why"]) == ("", "tiny", "auto")
    assert told["timings"]["ttft_seconds"] is None


def test_json_has_calls_joined() -> None:
    pieces: list[Delta] = [ToolCall(0, "c", "add", "{"), ToolCall(0, arguments="}"), Finished("tool_calls")]
    told = json.loads(to_json("m", answered(pieces, [1.0, 2.0, 3.0]), Origin()))
    assert [(call["name"], call["arguments"]) for call in told["tool_calls"]] == [("add", "{}")]


def test_the_line_of_figures() -> None:
    assert stats_line(WHOLE.figures(), Origin(node="board", why="auto: quick, as asked")) == (
        "10 (4 cached) tokens read, 3 (1 thought) written; first after 0.50 s; 2.0 tokens/s; board; "
        "auto: quick"
    )
    empty = answered([Finished("stop", Usage(3, 0))], [1.0])
    assert stats_line(empty.figures(), Origin()) == "3 tokens read, 0 written"


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ("", Origin(node="me")),
        ("other: is free; has it loaded", Origin(node="other")),
        ("auto: quick, as asked", Origin(node="me", why="auto: quick, as asked")),
        (
            "auto: quick, as 0.10: has 3 numbers; costs 2 s; other: is free",
            Origin(node="other", why="auto: quick, as 0.10: has 3 numbers"),
        ),
        ("stranger: who knows", Origin(node="me")),
    ],
)
def test_the_node_is_the_one_that_the_route_names(route: str, told: Origin) -> None:
    assert origin(route, "me", ["other", "third"]) == told
