"""Connections between the processes of one model's shards, and what goes over them."""

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator

import msgspec
import pytest

from exo.chat import Sampling
from exo.errors import ConnectionLost, EngineFailed, ExoError
from exo.shards import frames, process
from exo.shards.chain import Chain
from exo.shards.frames import Done, Drawn, Failed, Free, Hidden, Step
from exo.shards.link import Link
from exo.shards.process import ShardProcess
from exo.shards.rest import Arrived, Rest
from tests.shards import troubled
from tests.shards.conftest import TROUBLED, Start

PROMPT = tuple(40 + n % 60 for n in range(20))
PATIENCE = 20.0


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    ends = socket.socketpair()
    with contextlib.closing(Link(ends[0])) as one, contextlib.closing(Link(ends[1])) as other:
        yield one, other


def test_a_frame_that_comes_in_pieces_is_taken_when_it_is_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours, contextlib.closing(Link(theirs)) as link:
        whole = frames.encode(Done(7), 3) + b"abc" + frames.encode(Done(8))
        received = []
        for byte in whole:
            ours.send(bytes([byte]))
            received += link.receive()
        assert [(frames.decode_from_worker(head), bytes(payload)) for head, payload in received] == [
            (Done(7), b"abc"),
            (Done(8), b""),
        ]
        assert link.receive() == []


def test_what_there_is_no_room_for_is_sent_later(pair: tuple[Link, Link]) -> None:
    one, other = pair
    large = bytes(range(256)) * (1 << 16)  # 16 MB, more than any socket holds
    # Each sends before it reads: neither waits for the other.
    one.send(Hidden(1), memoryview(large))
    other.send(Hidden(2), memoryview(large))
    assert one.unsent
    assert other.unsent
    received: dict[Link, list[tuple[bytes, bytearray]]] = {one: [], other: []}
    while not all(received.values()):
        for link in pair:
            link.flush()
            received[link] += link.receive()
    assert not one.unsent
    assert [payload for _, payload in received[one]] == [large]
    assert [payload for _, payload in received[other]] == [large]


def test_the_end_of_a_link_is_told(pair: tuple[Link, Link]) -> None:
    one, other = pair
    other.close()
    with pytest.raises(ConnectionError):
        one.receive()
    with pytest.raises(ConnectionError):
        one.send(Done(1))


def test_what_is_no_frame_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, contextlib.closing(Link(theirs)) as link:
        ours.send(b"\xff" * 100)
        with pytest.raises(EngineFailed, match="is no frame"):
            link.receive()


# The rest of a model, seen from the worker with its first layers


def replied(rest: Rest, link: Link, message: frames.FromWorker, payload: bytes = b"") -> list[object]:
    header = frames.encode(message)[frames.HEAD.size :]
    return list(rest.take(link, header, bytearray(payload)))


def asked(other: Link) -> list[tuple[Step | Free, bytes]]:
    select.select([other], [], [], PATIENCE)
    return [(frames.decode_from_first(header), bytes(payload)) for header, payload in other.receive()]


@pytest.fixture
def rest() -> Iterator[tuple[Rest, list[Link], list[Link]]]:
    """With two links, and their other ends."""
    pairs = [socket.socketpair() for _ in range(2)]
    ours, theirs = [Link(a) for a, _ in pairs], [Link(b) for _, b in pairs]
    made = Rest()
    for link in ours:
        made.add(link)
    yield made, ours, theirs
    for link in (*ours, *theirs):
        link.close()


def test_a_step_goes_to_one_after_the_other(rest: tuple[Rest, list[Link], list[Link]]) -> None:
    made, ours, theirs = rest
    made.send(Step(id=5, slot=1, position=9, tokens=(3,), want="token"), memoryview(b"abcd"))
    assert asked(theirs[0]) == [(Step(id=5, slot=1, position=9, want="all"), b"abcd")]
    assert replied(made, ours[0], Hidden(5), b"efgh") == []
    assert asked(theirs[1]) == [(Step(id=5, slot=1, position=9, want="last"), b"efgh")]
    assert replied(made, ours[1], Hidden(5), b"ijkl") == [Arrived(5, 1, bytearray(b"ijkl"))]


def test_a_slot_is_free_when_it_is_in_all(rest: tuple[Rest, list[Link], list[Link]]) -> None:
    made, ours, theirs = rest
    assert made.free(Free(id=6, slot=1))
    assert [asked(each)[0][0] for each in theirs] == [Free(id=6, slot=1)] * 2
    assert replied(made, ours[1], Done(6)) == []
    assert replied(made, ours[0], Done(6)) == [Done(6)]
    assert not Rest().free(Free(id=7, slot=1))


def test_a_step_that_fails_anywhere_has_failed(rest: tuple[Rest, list[Link], list[Link]]) -> None:
    made, ours, _ = rest
    made.send(Step(id=5, slot=1, position=9, want="token"), memoryview(b"abcd"))
    failed = Failed("engine_failed", "no such luck", None, 5)
    assert replied(made, ours[0], failed) == [failed]
    with pytest.raises(EngineFailed, match="nobody asked for"):
        replied(made, ours[0], Hidden(5), b"abcd")


def test_with_a_link_all_that_is_under_way_is_lost(rest: tuple[Rest, list[Link], list[Link]]) -> None:
    made, _, _ = rest
    made.send(Step(id=5, slot=1, position=9, want="token"), memoryview(b"abcd"))
    made.free(Free(id=6, slot=0))
    lost = list(made.lose(ConnectionResetError("gone")))
    assert [(failed.id, failed.code) for failed in lost] == [(5, "connection_lost"), (6, "connection_lost")]
    assert made
    with pytest.raises(ConnectionLost):
        made.send(Step(id=7, slot=1, position=9, want="token"), memoryview(b"abcd"))


# Whole chains


async def linked(start: Start, *spans: tuple[int, int], engine: str = "") -> tuple[Chain, list[ShardProcess]]:
    shards = [await (start(*span, engine=engine) if engine else start(*span)) for span in spans]
    chain = Chain(shards[0], shards[1:])
    await chain.link()
    return chain, shards


async def answer(chain: Chain, slot: int, tokens: int) -> list[tuple[int, float]]:
    await chain.begin(slot, Sampling(temperature=0), form=None, logprobs=2, prompt=PROMPT)
    drawn: list[Drawn] = [await chain.next(slot, 0, PROMPT)]
    for place in range(tokens - 1):
        drawn.append(await chain.next(slot, len(PROMPT) + place, (drawn[-1].token,)))
    return [(each.token, each.odds.chosen) for each in drawn if each.odds]


async def test_linked_shards_say_what_others_do_past_their_node(start: Start) -> None:
    plain = Chain(await start(0, 2), [await start(2, 3), await start(3, 6)])
    expected = await answer(plain, 1, 6)
    chain, shards = await linked(start, (0, 2), (2, 3), (3, 6))
    assert await answer(chain, 1, 6) == expected
    # Nothing went through the others' connections to this process but the link itself.
    assert all("after 1 calls" in repr(shard) for shard in shards[1:])
    assert await answer(chain, 0, 6) == expected


async def test_several_answers_are_under_way_at_once(start: Start) -> None:
    chain, _ = await linked(start, (0, 3), (3, 6))
    alone = await answer(chain, 0, 8)
    assert await asyncio.gather(*(answer(chain, slot, 8) for slot in range(2))) == [alone, alone]


async def test_what_is_under_way_when_a_slot_is_freed_is_over(start: Start) -> None:
    chain, _ = await linked(start, (0, 3), (3, 6))
    expected = await answer(chain, 0, 4)
    step = asyncio.create_task(chain.next(0, 0, PROMPT))
    await asyncio.sleep(0)
    step.cancel()
    await chain.free(0)
    assert await answer(chain, 0, 4) == expected


async def test_it_is_known_when_another_process_has_asked_last(start: Start) -> None:
    chain, (_, second) = await linked(start, (0, 3), (3, 6))
    await answer(chain, 0, 1)
    asked_at = asyncio.get_running_loop().time()
    idle = await second.idle()
    assert 0 <= idle <= asyncio.get_running_loop().time() - asked_at + PATIENCE
    unlinked = await start(3, 6)
    assert await unlinked.idle() < PATIENCE


async def test_one_that_ends_while_it_is_asked_is_idle(start: Start) -> None:
    shard = await start(3, 6)
    os.kill(shard.pid, signal.SIGSTOP)
    asking = asyncio.create_task(shard.idle())
    await asyncio.sleep(0)
    os.kill(shard.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        assert 0 < await asking < PATIENCE
    assert await shard.idle() < PATIENCE


async def test_one_that_does_not_answer_is_at_work(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_BUSY", 0.01)
    shard = await start(3, 6)
    os.kill(shard.pid, signal.SIGSTOP)
    try:
        assert await shard.idle() == 0
    finally:
        os.kill(shard.pid, signal.SIGCONT)
    await shard.free(0)


async def test_a_step_that_fails_in_another_process_fails_with_its_reason(start: Start) -> None:
    chain, _ = await linked(start, (0, 3), (3, 6), engine=TROUBLED)
    for position, reason in ((troubled.RAISES, "no such luck"), (troubled.REFUSES, "it is too long")):
        with pytest.raises(ExoError, match=reason):
            await chain.next(0, position, (1,))
    await chain.begin(0, Sampling(), form=None, logprobs=None, prompt=())
    assert isinstance(await chain.next(0, 0, (1,)), Drawn)


async def test_a_link_that_is_lost_is_done_without(start: Start) -> None:
    first, second = await start(0, 3), await start(3, 6)

    class Lost:
        """The second shard, whose link ends after a while."""

        span, width = second.span, second.width
        alive = True
        forward, free, stop = second.forward, second.free, second.stop

        async def connect(self, lost: object) -> socket.socket:
            one, other = socket.socketpair()
            other.close()
            return one

    chain = Chain(first, [Lost()])
    await chain.link()
    with pytest.raises(ConnectionLost, match=r"connections? between the layers' processes"):
        await answer(chain, 0, 1)
    plain = Chain(await start(0, 3), [await start(3, 6)])
    assert await answer(chain, 0, 4) == await answer(plain, 0, 4)


async def test_a_shard_that_cannot_be_linked_leaves_all_as_they_are(start: Start) -> None:
    first, second = await start(0, 3), await start(3, 6)

    class Aloof:
        span, width = second.span, second.width
        alive = True
        forward, free, stop = second.forward, second.free, second.stop

        async def connect(self, lost: object) -> None:
            return None

    chain = Chain(first, [Aloof()])
    await chain.link()
    plain = Chain(await start(0, 3), [await start(3, 6)])
    assert await answer(chain, 0, 4) == await answer(plain, 0, 4)


async def test_another_process_may_not_ask_for_more_than_another_node(start: Start) -> None:
    second = await start(3, 6)
    link = Link(await second.connect(lambda error: None))
    try:
        for message, payload, reason in (
            (Step(id=1, slot=9, position=0), b"", "no slot 9"),
            (Step(id=2, slot=0, position=0), b"abc", "no hidden states"),
            (Step(id=3, slot=0, position=0, tokens=(1,)), b"", "no tokens"),
            (Step(id=4, slot=0, position=-1), bytes(4 * second.width), "not within a context"),
            (Free(id=5, slot=-1), b"", "no slot -1"),
        ):
            link.send(message, memoryview(payload))
            failed = await said(link)
            assert isinstance(failed, Failed)
            assert failed.id == message.id
            assert reason in failed.message
        link.send(Free(id=6, slot=0))
        assert await said(link) == Done(6)
    finally:
        link.close()


async def test_a_process_outlives_another_one_that_talks_nonsense(start: Start) -> None:
    second = await start(3, 6)
    connection = await second.connect(lambda error: None)
    with connection:
        header = msgspec.msgpack.encode({"type": "begin"})
        connection.sendall(frames.HEAD.pack(len(header), 0) + header)
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.to_thread(connection.recv, 1) == b""
    await second.free(0)


async def said(link: Link) -> frames.FromWorker:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        while True:
            loop.add_reader(link.fileno(), readable.set)
            await readable.wait()
            readable.clear()
            loop.remove_reader(link.fileno())
            if received := link.receive():
                return frames.decode_from_worker(received[0][0])
