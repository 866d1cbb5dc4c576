"""A snapshot as lines, at every size."""

import io
import logging
import re
import statistics
import time
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from exo.terminal.paint import Painter, svg
from exo.terminal.snapshot import Download, Request, Snapshot
from exo.terminal.view import ASCII, UNICODE, lines

from .samples import HOSTILE, NOW, busy, card, line, node, residence, snapshot

WIDTHS = pytest.mark.parametrize("width", [60, 80, 120, 200])
SECTIONS = ("NODES", "MODELS", "REQUESTS", "DOWNLOADS", "LOG")


def many(count: int) -> Snapshot:
    """A busy node with so many peers, and more of everything than there is room for."""
    peers = [
        node(f"peer-{i:02}", "model-" + "x" * i, loaded=[residence(f"model-{i}", i)]) for i in range(count)
    ]
    usual = busy()
    return msgspec.structs.replace(
        usual,
        cluster=msgspec.structs.replace(usual.cluster, peers=tuple(peers)),
        requests=usual.requests * 25,
        lines=usual.lines * 100,
        downloads=usual.downloads * 5,
    )


def text_of(shown: Sequence[Text]) -> str:
    """What a terminal would show of it, as rich draws it."""
    console = Console(file=io.StringIO(), record=True, width=200, color_system=None, _environ={})
    for each in shown:
        console.print(each, no_wrap=True, crop=False)
    return console.export_text()


def row(shown: Sequence[Text], part: str) -> str:
    return next(each.plain for each in shown if part in each.plain)


@WIDTHS
@pytest.mark.parametrize("peers", [0, 1, 20])
@pytest.mark.parametrize("height", [12, 24, 60])
def test_it_fills_the_terminal_and_no_more(width: int, peers: int, height: int) -> None:
    shown = lines(many(peers), width, height, UNICODE)
    assert len(shown) == height
    assert max(cell_len(each.plain) for each in shown) <= width
    assert all(section in text_of(shown) for section in SECTIONS)
    assert "* rock-1" in text_of(shown)


@given(st.integers(1, 220), st.integers(1, 80), st.booleans())
def test_no_size_is_too_small(width: int, height: int, unicode: bool) -> None:
    shown = lines(many(3), width, height, UNICODE if unicode else ASCII)
    assert len(shown) == height
    assert max(cell_len(each.plain) for each in shown) <= width


def test_a_node_alone_with_nothing_to_do_says_how_to_begin() -> None:
    text = text_of(lines(snapshot(), 80, 24, UNICODE))
    assert "none yet: open http://192.168.1.20:52415 in a browser" in text
    assert "NODES  " in text
    assert "DOWNLOADS" not in text
    assert "ready" in text


def test_sections_go_in_the_order_of_their_weight() -> None:
    def shown(height: int) -> set[str]:
        text = text_of(lines(many(3), 80, height, UNICODE))
        return {section for section in SECTIONS if section in text}

    assert shown(12) == set(SECTIONS)
    assert shown(11) == {"NODES", "REQUESTS", "LOG", "DOWNLOADS"}
    assert shown(8) == {"NODES", "REQUESTS", "LOG"}
    assert shown(4) == {"NODES"}


def test_columns_go_in_the_order_of_their_weight() -> None:
    def heads(width: int) -> list[str]:
        return row(lines(busy(), width, 30, UNICODE), "NODES").split("  ")

    def named(width: int) -> set[str]:
        return {head.strip() for head in heads(width)} - {""}

    assert named(140) == {"NODES 3", "CHIP", "IN MEMORY", "RUN", "WAIT", "TOK/S", "TEMP", "NPU", "FREE"}
    assert "CHIP" not in named(60)
    assert {"NODES 3", "RUN", "WAIT", "IN MEMORY"} <= named(60)


def test_what_does_not_fit_is_counted() -> None:
    text = text_of(lines(many(20), 80, 24, UNICODE))
    assert re.search(r"NODES \d of 21", text)
    assert "NODES 21" in text_of(lines(many(20), 80, 120, UNICODE))


def test_a_node_is_told_with_its_figures() -> None:
    shown = lines(busy(), 140, 40, UNICODE)
    assert row(shown, "* rock-1").split() == [
        *("*", "rock-1", "RK3588", "qwen2.5-1.5b-instruct-w8a8", "1", "2", "14.9", "54°C", "0%", "5.3", "GB")
    ]
    assert row(shown, "macbook (leaving)").split()[-4:] == ["0", "0", "12.1", "GB"]
    assert "exo-demo (loading)" in row(shown, "  rock-2")


def test_a_node_of_another_version_says_so() -> None:
    old = msgspec.structs.replace(node("old"), version="1.9.0")
    assert "old (1.9.0)" in text_of(lines(snapshot(old), 80, 24, UNICODE))


def test_models_in_memory_come_first_and_say_where_they_are() -> None:
    shown = lines(busy(), 140, 40, UNICODE)
    place = [each.plain.split("  ")[0] for each in shown]
    first = place.index("deepseek-r1-distill-qwen-7b")
    assert place[first + 1 : first + 4] == ["qwen2.5-1.5b-instruct-w8a8", "exo-demo", "llama-3.2-3b"]
    assert row(shown[first:], "llama-3.2-3b").split()[3:6] == ["on", "disk", "macbook"]
    assert row(shown[first : first + 3], "qwen2.5").split()[-3:] == ["1", "2", "14.7"]


def test_a_model_that_nobody_uses_says_when_it_leaves() -> None:
    idle = msgspec.structs.replace(residence("m"), expires_in=290.0, idle=10.0)
    text = text_of(lines(snapshot(me=node("a", "m", loaded=[idle])), 100, 24, UNICODE))
    assert re.search(r"m +1.9 GB +in memory +leaves in 5 min", text)


def test_a_model_of_another_server_is_elsewhere() -> None:
    me = node("a", "m")
    remote = msgspec.structs.replace(card("far", 0), format="remote")
    me = msgspec.structs.replace(me, cards=(*me.cards, remote))
    assert re.search(r"far +elsewhere", text_of(lines(snapshot(me=me), 100, 24, UNICODE)))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(at=NOW, model="m", tokens=100, seconds=10.5, ttft=0.5), r"m +ok +100 +500 ms +10 s +10.0"),
        (Request(at=NOW, model="m", status=499, seconds=1.0), r"m +hung up +- +- +1.00 s +-"),
        (Request(at=NOW, model="", error="unauthorized", status=401), r"- +unauthorized"),
        (Request(at=NOW, model="m", status=500), r"m +HTTP 500"),
        # Its error came when the status had been sent.
        (Request(at=NOW, model="m", status=200, error="engine_failed", tokens=3), r"m +engine_failed +3"),
    ],
)
def test_a_request_says_how_it_ended(request_: Request, said: str) -> None:
    assert re.search(said, text_of(lines(snapshot(requests=(request_,)), 100, 24, UNICODE)))


def test_a_request_says_which_node_answered_where_there_are_several() -> None:
    request = Request(at=NOW, model="m", node="rock-9")
    assert "rock-9" not in text_of(lines(snapshot(requests=(request,)), 100, 24, UNICODE))
    assert "rock-9" in text_of(lines(snapshot(node("b"), requests=(request,)), 100, 24, UNICODE))


def test_a_download_says_how_far_it_is() -> None:
    half = Download(model="user/model", done=500_000_000, total=1_000_000_000, rate=5e6)
    stalled = Download(model="user/other", done=0, total=0)
    failed = Download(model="user/third", done=1, total=100, failure="the disk is full")
    shown = lines(snapshot(downloads=(half, stalled, failed)), 120, 30, UNICODE)
    text = row(shown, "user/model")
    assert re.search(r"50%  500.0 MB of 1.0 GB +5.0 MB/s  100 s left", text)
    assert text.count("━") == text.count("─") == 12
    assert "stalled" in row(shown, "user/other")
    assert "failed: the disk is full" in row(shown, "user/third")
    assert "━" not in text_of(lines(snapshot(downloads=(half,)), 120, 30, ASCII))


def test_an_error_stays_to_be_seen_however_much_is_said_after_it() -> None:
    said = (line("the wheel came off", logging.ERROR), *(line(f"news {i}") for i in range(100)))
    for height in (12, 24, 40):
        text = text_of(lines(snapshot(lines=said), 80, height, UNICODE))
        assert "the wheel came off" in text
        assert "news 99" in text
        assert text.index("the wheel came off") < text.index("news 99")


def test_the_head_says_what_state_it_is_in() -> None:
    def head(width: int = 80, **more: Any) -> str:
        return lines(snapshot(**more), width, 24, UNICODE)[0].plain

    assert head().endswith("ready")
    assert head(problem="loading qwen").endswith("loading qwen")
    assert head(stopping=True, problem="x").endswith("stopping: Ctrl-C again ends it at once")
    assert head(answered=2, failed=1, rates={"m": 3.21}).endswith("2 answered, 1 failed · 3.2 tok/s · ready")
    # What matters least goes first.
    assert head(30, answered=2, failed=1, rates={"m": 3.21}) == "exo 2.0.0  rock-1        ready"


def test_the_addresses_that_fit_are_shown_and_whom_they_are_open_to() -> None:
    urls = tuple(f"http://10.0.0.{i}:52415" for i in range(9))
    for width, access, said in (
        (60, "key", "key needed"),
        (80, "open", "open to this network"),
        (200, "here", "only"),
    ):
        shown = lines(snapshot(urls=urls, access=access), width, 24, UNICODE)[1].plain
        assert said in shown
        assert urls[0] in shown
        assert all(part.startswith("http://10.0.0.") for part in re.findall(r"http\S+", shown))
        assert "…" not in shown


@WIDTHS
def test_what_strangers_say_is_no_more_than_text(width: int) -> None:
    said = Snapshot(
        version="2.0.0",
        urls=("http://x",),
        access="open",
        cluster=snapshot(
            node(HOSTILE, HOSTILE, loaded=[residence(HOSTILE)]),
            me=node(HOSTILE + "me", HOSTILE, loaded=[residence(HOSTILE, state=HOSTILE)]),
        ).cluster,
        problem=HOSTILE,
        requests=(Request(at=NOW, model=HOSTILE, node=HOSTILE, error=HOSTILE),),
        downloads=(Download(model=HOSTILE, done=1, total=2, failure=HOSTILE),),
        lines=(line(HOSTILE, logging.ERROR),),
    )
    shown = lines(said, width, 40, UNICODE)
    drawn = "".join(Painter(colours=True).ansi(shown))
    drawn.encode()
    # Nothing but our own styles is in what is sent.
    assert not re.sub(r"\x1b\[[0-9;]*m", "", drawn).count("\x1b")
    assert set(re.findall(r"\x1b\[([0-9;]*)m", drawn)) <= {
        "0",
        "1",
        "2",
        "31",
        "32",
        "33",
        "36",
        "1;32",
        "1;33",
        "1;36",
    }
    assert not set(drawn) & set("\r\n\x07\x9b\u202e")
    # Markup is text.
    assert "[bold]not" in drawn
    assert max(cell_len(each.plain) for each in shown) <= width


def test_wide_characters_keep_their_room() -> None:
    wide = "模型" * 30
    shown = lines(snapshot(me=node("a", wide, loaded=[residence(wide)])), 60, 24, UNICODE)
    assert max(cell_len(each.plain) for each in shown) <= 60
    assert "…" in text_of(shown)


@pytest.mark.timed
def test_twenty_nodes_are_drawn_in_ten_milliseconds() -> None:
    snapshot, painter, seconds = many(20), Painter(colours=True), []
    for _ in range(20):
        began = time.process_time()
        painter.ansi(lines(snapshot, 140, 40, UNICODE))
        seconds.append(time.process_time() - began)
    assert statistics.median(seconds) < 0.01


def test_without_unicode_all_is_ascii() -> None:
    strange = snapshot(me=node("größe", "模型", loaded=[residence("模型")]))
    for each in (busy(), many(20), strange):
        assert all(shown.plain.isascii() for shown in lines(each, 80, 24, ASCII))


def test_without_colours_there_are_none() -> None:
    shown = lines(busy(), 80, 24, UNICODE)
    plain = "".join(Painter(colours=False).ansi(shown))
    assert set(re.findall(r"\x1b\[([0-9;]*)m", plain)) <= {"0", "1", "2"}
    assert "\x1b[31m" in "".join(Painter(colours=True).ansi(shown))


def test_a_picture_needs_nothing_from_elsewhere() -> None:
    picture = svg(lines(busy(), 100, 30, UNICODE), 100, "exo")
    root = xml.fromstring(picture)
    assert root.tag.endswith("svg")
    assert "rock-1" in picture
    assert "url(http" not in picture
    assert not re.search(r"(href|src)=", picture)
