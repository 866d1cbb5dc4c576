"""Boards, each with an NPU server and exo: their answers go on elsewhere, and nothing goes in circles."""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.machines import Board, Exo, Lan, Stream, node_of
from tests.e2e.node import eventually

LONG = "Count from 1 to 40."
KEYS: dict[str, Any] = {"temperature": 0, "enable_thinking": False}


def chats(exo: Exo) -> Counter[str]:
    """How many requests for a chat it answered, by their ids."""
    records = [json.loads(line) for line in exo.log.splitlines() if line.startswith("{")]
    return Counter(record["id"] for record in records if record["path"].endswith("/chat/completions"))


def test_a_model_whose_servers_are_down_ends_in_503_and_not_in_a_circle(lan: Lan) -> None:
    """The first exo-rkllama passed such a request back and forth for ever."""
    boards = [lan.board("left"), lan.board("right")]
    left, right = lan.start()
    assert "19" in left.ask("demo", "What is 12 + 7?", **KEYS)
    assert "19" in right.ask("demo", "What is 12 + 7?", **KEYS)
    for board in boards:
        board.npu.kill()
    # Both still list it.
    assert "demo" in str(left.get("/v1/cluster").json()["peers"])
    assert "demo" in str(right.get("/v1/cluster").json()["peers"])
    for number, entry in enumerate((left, right, left)):
        asked = time.monotonic()
        reply = entry.chat("demo", "What is 12 + 7?", id=f"down-{number}", **KEYS)
        assert time.monotonic() - asked < 5.0
        assert reply.status == 503, reply
        assert "8080" in reply.error()["message"]
        entry.access(f"down-{number}")
        assert chats(left)[f"down-{number}"] + chats(right)[f"down-{number}"] <= 2
    boards[0].start_npu()
    eventually(lambda: left.get("/ready").status == 200)
    eventually(lambda: right.chat("demo", "What is 12 + 7?", **KEYS).status == 200)


def kill_all(board: Board) -> None:
    board.kill()


def kill_the_npu_server(board: Board) -> None:
    board.npu.kill()


def kill_exo(board: Board) -> None:
    board.exo.kill()


@pytest.mark.parametrize("kill", [kill_all, kill_exo, kill_the_npu_server])
def test_an_answer_of_the_npu_goes_on_at_the_other_board(lan: Lan, kill: Callable[[Board], None]) -> None:
    """Of another release, even: the text is the same, token for token."""
    for name, release in (("left", "1.2.3"), ("right", "1.3.0")):
        lan.board(name, release=release, env={"STANDIN_TOKEN_MS": "5"})
    lan.machine("entry", "--inference-engine", "dummy")
    left, right, entry = lan.start()
    entry.sees(left, right)
    whole = left.ask("demo", LONG, **KEYS)
    assert right.ask("demo", LONG, **KEYS) == whole
    assert whole.endswith("39, 40")
    with Stream(entry, "demo", LONG, **KEYS) as stream:
        stream.until(" 11")
        board = next(each for each in lan.machines if each.exo.id == stream.node)
        assert isinstance(board, Board)
        kill(board)
        assert stream.rest() == whole
    assert (entry.failovers("within"), entry.failovers("before")) == (1, 0)


def test_two_conversations_are_on_two_boards(lan: Lan) -> None:
    for name in ("left", "right"):
        lan.board(name, env={"STANDIN_TOKEN_MS": "5"})
    left, right = lan.start()
    for exo in (left, right):
        # So that it is known how long such an answer takes.
        exo.ask("demo", LONG, **KEYS)
    left.sees_all_idle()
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda _: left.chat("demo", LONG, **KEYS), range(2)))
    assert {node_of(reply) for reply in replies} == {"left", "right"}
