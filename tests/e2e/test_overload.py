"""More is asked for than fits: of requests, of memory, and all at once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from .conftest import Start
from .node import HANG, Wire, eventually, fail, raw_chat, text, wait, write_script

# Plays its first word, then hangs; asked for one token it is done after the first word.
HOLDS: list[object] = [text("started"), text(" on"), HANG]


def test_one_more_than_may_wait_is_refused_and_the_rest_answered_in_order(start: Start) -> None:
    node = start("--slots", "1", "--max-waiting", "2", scripts={"holds": HOLDS})
    with Wire(node) as holder, ThreadPoolExecutor(2) as others:
        holder.send(raw_chat("holds", stream=True, id="r1"))
        holder.until(b"started")
        second = others.submit(node.chat, "holds", id="r2", max_tokens=1)
        eventually(lambda: node.waiting() == 1)
        third = others.submit(node.chat, "holds", id="r3", max_tokens=1)
        eventually(lambda: node.waiting() == 2)
        for stream in (False, True):
            refused = node.chat("holds", id="r4", stream=stream)
            assert (refused.status, refused.error()["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        assert node.get("/ready").status == 200
        assert (node.running(), node.waiting()) == (1, 2)
        assert node.metric("exo_requests_waiting") == 2
        holder.close()
        assert (second.result().status, third.result().status) == (200, 200)
    node.access("r3")
    ended = [id for id in node.access_order() if id in ("r1", "r2", "r3")]
    assert ended == ["r1", "r2", "r3"]
    node_is_free = (node.running(), node.waiting())
    assert node_is_free == (0, 0)


def test_order_of_arrival(start: Start) -> None:
    """Ten wait; each turn is taken by the one that came first."""
    node = start(scripts={"holds": HOLDS})
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(node)) for _ in range(10)]
        for place, wire in enumerate(wires):
            wire.send(raw_chat("holds", stream=True))
            eventually(lambda: node.running() + node.waiting() == place + 1)  # noqa: B023
        for place, wire in enumerate(wires):
            wire.until(b"started")
            assert (node.running(), node.waiting()) == (1, 9 - place)
            assert all(later.has_nothing() for later in wires[place + 1 :])
            wire.close()
    eventually(lambda: node.running() == 0)


def test_a_waiting_request_of_one_model_holds_up_no_other_model(start: Start) -> None:
    node = start(scripts={"holds": HOLDS, "hello": [text("Hello")]})
    with Wire(node) as first, Wire(node) as second:
        first.send(raw_chat("holds", stream=True))
        first.until(b"started")
        second.send(raw_chat("holds", stream=True))
        eventually(lambda: node.waiting() == 1)
        assert node.chat("hello").status == 200


@pytest.mark.parametrize("slots", [1, 4])
async def test_many_first_requests_load_a_model_once(start: Start, home: Path, slots: int) -> None:
    write_script(home, "large", [text("Hello")], load=[wait(0.5)], slots=slots)
    node = start()
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model="large", messages=[{"role": "user", "content": "hi"}])
                for _ in range(20)
            )
        )
    assert [answer.choices[0].message.content for answer in answers] == ["Hello"] * 20
    assert node.metric("exo_model_load_seconds_count") == 1
    assert node.metric("exo_requests_total", model="large", status="success") == 20


def test_a_load_that_fails_fails_everyone_who_waits_for_it_and_is_tried_again(
    start: Start, home: Path
) -> None:
    write_script(home, "large", [text("Hello")], load=[wait(0.5), fail("its file is cut short")])
    node = start()
    with ThreadPoolExecutor(5) as clients:
        replies = list(clients.map(lambda _: node.chat("large"), range(5)))
    assert [(reply.status, reply.error()["code"]) for reply in replies] == [(502, "engine_failed")] * 5
    assert all("its file is cut short" in reply.error()["message"] for reply in replies)
    write_script(home, "large", [text("Hello")])
    assert node.chat("large").status == 200
    node.assert_serves("large")


def test_models_that_do_not_fit_together_take_turns(start: Start) -> None:
    """A script counts for 1 MiB of memory."""
    node = start("--memory", "1.5MB", scripts={"one": [text("1")], "two": [text("2")]})
    for model in ("one", "two", "one"):
        assert node.chat(model).status == 200
        assert [resident["model"] for resident in node.me()["loaded"]] == [model]
    assert node.metric("exo_model_unloads_total", why="evicted") == 2
    assert node.metric("exo_model_load_seconds_count") == 3
    with ThreadPoolExecutor(10) as clients:
        replies = list(clients.map(node.chat, ["one", "two"] * 5))
    assert [reply.status for reply in replies] == [200] * 10
    assert node.metric("exo_model_info") == 1


def test_a_model_that_answers_is_not_evicted(start: Start) -> None:
    node = start("--memory", "1.5MB", scripts={"holds": HOLDS, "two": [text("2")]})
    with Wire(node) as holder, ThreadPoolExecutor(1) as other:
        holder.send(raw_chat("holds", stream=True))
        holder.until(b"started")
        second = other.submit(node.chat, "two")
        eventually(lambda: node.waiting() == 1)
        assert [resident["model"] for resident in node.me()["loaded"]] == ["holds"]
        holder.close()
        assert second.result().status == 200


def test_a_model_larger_than_the_memory(start: Start) -> None:
    node = start("--memory", "5MB", scripts={"hello": [text("Hello")]})
    reply = node.chat("exo-demo")
    assert (reply.status, reply.error()["code"]) == (503, "not_ready")
    message = reply.error()["message"]
    assert "--memory" in message
    assert "0.0 GB" not in message, message
    assert "5" in message.replace("exo-demo", ""), message
    node.assert_serves()


def test_an_idle_model_leaves_memory_and_comes_back(start: Start) -> None:
    node = start("--idle-unload", "0.2", scripts={"hello": [text("Hello")]})
    assert node.chat("hello").status == 200
    eventually(lambda: node.me()["loaded"] == [])
    assert node.metric("exo_model_unloads_total", why="idle") == 1
    assert node.chat("hello").status == 200
