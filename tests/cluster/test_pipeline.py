"""Layers on other nodes: real servers on loopback, layers computed with numpy in processes of their own."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from exo.cards import Share, Span
from exo.chat import ChatRequest, Message, Sampling
from exo.cluster import certificates
from exo.cluster.pipeline import Credentials, RemoteShard, open_rest
from exo.cluster.settings import TlsFiles
from exo.errors import (
    BadRequest,
    ConnectionLost,
    EngineFailed,
    ExoError,
    ModelNotFound,
    NotReady,
    Unauthorized,
)
from exo.http.tls import client_context
from exo.shards.chain import Chain
from exo.shards.frames import Open
from exo.shards.process import ShardProcess
from exo.wire.shards import OpenShard
from tests.cluster.shard_nodes import CONTEXT, DEMO, FOLDER, LAYERS, NUMPY, SLOTS, TROUBLED, WIDTH, ShardNode
from tests.doubles import answer, text
from tests.shards import troubled

PATIENCE = 20.0
NOTICED = 2.0
"""Seconds within which whoever is gone is known to be."""
SECRET = b"0123456789abcdef"
PROMPT = tuple(range(1, 41))

Add: TypeAlias = Callable[..., Awaitable[ShardNode]]
Opened: TypeAlias = Callable[..., Awaitable[RemoteShard]]
Local: TypeAlias = Callable[[Span], Awaitable[ShardProcess]]


@pytest.fixture
async def add() -> AsyncIterator[Add]:
    """Adds nodes, all of which see each other; at the end none of their shards is left."""
    nodes: list[ShardNode] = []

    async def added(id: str, **options: object) -> ShardNode:
        node = ShardNode(id, **options)  # type: ignore[arg-type]
        await node.start()
        nodes.append(node)
        for each in nodes:
            each.peers = [other for other in nodes if other is not each]
        return node

    yield added
    async with asyncio.timeout(PATIENCE):
        for node in nodes:
            await until(lambda node=node: not node.held)  # type: ignore[misc]
            await node.stop()
    gc.collect()


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    shards: list[RemoteShard] = []

    async def start(node: ShardNode, span: Span, credentials: Credentials | None = None) -> RemoteShard:
        shards.append(await opening(node, span, credentials))
        return shards[-1]

    yield start
    for shard in shards:
        await shard.stop()


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    """Shards of this process's own, to compare with; those with the first layer have the ends."""
    shards: list[ShardProcess] = []

    async def start(span: Span) -> ShardProcess:
        shards.append(
            await ShardProcess.start(
                Open(
                    engine=NUMPY,
                    folder=FOLDER,
                    span=span,
                    ends=span.start == 0,
                    slots=SLOTS,
                    context=CONTEXT,
                    vocabulary=512,
                )
            )
        )
        return shards[-1]

    yield start
    for shard in shards:
        await shard.stop()
    gc.collect()


def ask(span: Span, **fields: object) -> OpenShard:
    return OpenShard(**{"model": DEMO, "span": span, "slots": SLOTS, "context": CONTEXT, **fields})  # type: ignore[arg-type]


async def opening(
    node: ShardNode, span: Span, credentials: Credentials | None = None, **fields: Any
) -> RemoteShard:
    """As node "a" opens it."""
    return await RemoteShard.start(
        node.url, f"node {node.id}", ask(span, **fields), credentials or Credentials("a")
    )


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


async def gone(node: ShardNode) -> float:
    """Seconds until it holds nothing for others."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        await until(lambda: not node.held)
    return time.monotonic() - began


def processes() -> list[int]:
    """Those of the shards that this test's nodes have."""
    children = psutil.Process().children()
    return [each.pid for each in children if "exo.shards.worker" in each.cmdline()]


# What it computes


async def test_layers_on_another_node_compute_what_layers_here_do(
    add: Add, opened: Opened, local: Local
) -> None:
    await add("a")
    b, c = await add("b"), await add("c")
    whole, first = await local(Span(0, LAYERS)), await local(Span(0, 2))
    second, third = await opened(b, Span(2, 4)), await opened(c, Span(4, LAYERS))
    assert (second.width, second.span) == (WIDTH, Span(2, 4))
    assert second.bytes > 0
    for position, tokens in ((0, PROMPT), (len(PROMPT), (7,)), (10, (3, 4, 5))):
        hidden = await first.embed(0, position, tokens)
        hidden = await third.forward(0, position, await second.forward(0, position, hidden))
        assert hidden == await whole.embed(0, position, tokens)
        assert len(hidden) == len(tokens) * WIDTH * 4


async def drawn(chain: Chain, count: int) -> list[int]:
    await chain.begin(0, Sampling(temperature=0), form=None, logprobs=None, prompt=PROMPT)
    tokens = [(await chain.next(0, 0, PROMPT)).token]
    for place in range(count - 1):
        tokens.append((await chain.next(0, len(PROMPT) + place, (tokens[-1],))).token)
    return tokens


@pytest.mark.parametrize(("chunk", "by_nodes"), [(512, 0), (16, 3)])
async def test_tokens_go_from_process_to_process_past_the_nodes(
    add: Add, opened: Opened, local: Local, chunk: int, by_nodes: int
) -> None:
    """All of them but a prompt that is long, which goes by way of the nodes in chunks."""
    await add("a")
    b, c = await add("b"), await add("c")
    wanted = await drawn(Chain(await local(Span(0, LAYERS))), 6)
    rest = await opened(b, Span(2, 4)), await opened(c, Span(4, LAYERS))
    chain = Chain(await local(Span(0, 2)), rest, chunk=chunk)
    await chain.link()
    assert await drawn(chain, 6) == wanted
    assert all(f"after {by_nodes} calls" in repr(shard) for shard in rest)


async def test_a_node_that_goes_silent_fails_what_its_processes_do_not_answer(
    add: Add, opened: Opened, local: Local
) -> None:
    await add("a")
    first, second = await local(Span(0, 2)), await opened(await add("b"), Span(2, LAYERS))
    chain = Chain(first, [second])
    await chain.link()
    await drawn(chain, 2)
    *_, theirs = processes()
    os.kill(theirs, signal.SIGSTOP)
    try:
        step = asyncio.create_task(chain.next(0, len(PROMPT) + 1, (1,)))
        before = repr(first)
        while repr(first) == before:
            await asyncio.sleep(0)
        second._fail(ConnectionLost("node b was silent for 1.9 s"))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionLost, match="node b was silent"):
                await step
        assert not chain.alive
    finally:
        os.kill(theirs, signal.SIGCONT)


async def test_what_certificates_protect_does_not_leave_the_nodes(add: Add, tmp_path: Path) -> None:
    ca = certificates.make_ca("home")
    await add("a")
    b = await add("b", tls=certified(tmp_path, "b", ca))
    ours = certified(tmp_path, "a", ca)
    shard = await opening(
        b, Span(2, 4), Credentials("a", tls=client_context(ours.ca, ours.certificate, ours.key))
    )
    assert await shard.connect(lambda error: None) is None
    await shard.stop()


async def test_a_node_that_knows_nothing_of_links_is_done_without(add: Add, opened: Opened) -> None:
    await add("a")
    b = await add("b")
    shard = await opened(b, Span(2, 4))
    shard._link = "another"
    assert await shard.connect(lambda error: None) is None
    shard._link = ""
    assert await shard.connect(lambda error: None) is None
    assert shard.alive


async def test_rows_that_are_not_wanted_do_not_travel(add: Add, opened: Opened, local: Local) -> None:
    await add("a")
    b = await add("b")
    first, second = await local(Span(0, 2)), await opened(b, Span(2, LAYERS))
    hidden = await first.embed(0, 0, PROMPT)
    everything = await second.forward(0, 0, hidden)
    assert await second.forward(1, 0, hidden, rows="last") == everything[-WIDTH * 4 :]
    assert await second.forward(1, 0, hidden, rows="none") == b""


async def test_four_steps_in_flight_do_not_meet_each_other(add: Add, opened: Opened, local: Local) -> None:
    await add("a")
    b = await add("b")
    first = await local(Span(0, 2))
    here, there = await local(Span(2, LAYERS)), await opened(b, Span(2, LAYERS))
    prompts = [tuple(range(start, start + 20)) for start in (1, 100, 200, 300)]
    hidden = [await first.embed(0, 0, prompt) for prompt in prompts]
    wanted = [await here.forward(0, 0, each) for each in hidden]
    for _ in range(5):
        async with asyncio.timeout(PATIENCE):
            # Two slots, each of which has its steps done in their order.
            outs = await asyncio.gather(*(there.forward(n % SLOTS, 0, each) for n, each in enumerate(hidden)))
        assert outs == wanted


async def test_a_greedy_answer_over_three_nodes_is_that_of_one(add: Add) -> None:
    request = ChatRequest(
        model=DEMO,
        messages=(Message("user", "What is 145 + 278?"),),
        sampling=Sampling(temperature=0, max_tokens=40),
    )
    alone = await add("alone")
    wanted = text(await answer(alone.here, request))
    await alone.residency.unload(DEMO)
    assert len(wanted) > 10
    shares = (Share("c", Span(0, 2)), Share("b", Span(2, 4)), Share("a", Span(4, LAYERS)))
    await add("a")
    await add("b")
    c = await add("c", split=shares)
    try:
        async with asyncio.timeout(PATIENCE):
            assert text(await answer(c.here, request)) == wanted
        assert [len(node.held) for node in c.peers] == [0, 1, 1]
        assert f"{DEMO} (layers 2-3 for c)" in c.peers[2].held
    finally:
        await c.residency.unload(DEMO)
    assert [len(node.held) for node in c.peers] == [0, 0, 0]


async def test_a_model_that_fits_nobody_is_split_by_memory(add: Add) -> None:
    whole = (await (await add("x")).planner.plan(DEMO)).parts[0].bytes
    a = await add("a", memory=whole * 2 // 3)
    b = await add("b", memory=whole // 2)
    for node in (a, b):
        node.peers = [other for other in (a, b) if other is not node]
        plan = await node.planner.plan(DEMO)
        assert [part.node for part in plan.parts] == ["a", "b"]
        assert not plan.problem


# What is refused


async def test_what_cannot_be_loaded_is_told_with_its_kind(add: Add) -> None:
    await add("a")
    b = await add("b")
    refusals: tuple[tuple[dict[str, Any], type[ExoError], str], ...] = (
        ({"model": "nobody"}, ModelNotFound, "node b: 'nobody' is not here, and cannot be downloaded"),
        ({"span": Span(4, 7)}, BadRequest, "has 6 layers; there are no layers 4-6"),
        ({"span": Span(3, 3)}, BadRequest, "there are no layers"),
        ({"span": Span(-1, 3)}, BadRequest, "there are no layers"),
        ({"context": 1 << 20}, BadRequest, "has a context of"),
        ({"dtype": "float16"}, EngineFailed, "compute in float32"),
    )
    for fields, kind, words in refusals:
        with pytest.raises(kind, match=words):
            await opening(b, **{"span": Span(2, 4), **fields})
        assert not b.held


async def test_steps_that_cannot_be_are_refused_and_the_shard_lives_on(add: Add, opened: Opened) -> None:
    await add("a")
    b = await add("b")
    shard = await opened(b, Span(2, 4))
    row = bytes(WIDTH * 4)
    for slot, position, hidden, words in (
        (0, 0, b"", "0 bytes are no hidden states"),
        (0, 0, row + b"1234", f"{WIDTH * 4 + 4} bytes are no hidden states of {WIDTH} numbers"),
        (SLOTS, 0, row, f"no slot {SLOTS}"),
        (0, -1, row, "not within a context"),
        (0, CONTEXT, row, "not within a context"),
        (0, 5, row, "holds 0"),
    ):
        with pytest.raises(ExoError, match=words):
            await shard.forward(slot, position, hidden)
    with pytest.raises(BadRequest, match="no slot"):
        await shard.free(SLOTS)
    assert len(await shard.forward(0, 0, row)) == WIDTH * 4


@pytest.mark.parametrize(("key", "secret"), [("key", None), (None, SECRET), ("key", SECRET)])
async def test_key_and_secret_open_it(
    add: Add, opened: Opened, key: str | None, secret: bytes | None
) -> None:
    await add("a")
    b = await add("b", key=key, secret=secret)
    assert await opened(b, Span(2, 4), Credentials("a", key=key, secret=secret))


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials("a", secret=SECRET),
        Credentials("a", key="key"),
        Credentials("a", key="key", secret=b"another one, as long"),
        Credentials("a", key="wrong", secret=SECRET),
    ],
)
async def test_a_wrong_key_or_secret_does_not(add: Add, credentials: Credentials) -> None:
    await add("a")
    b = await add("b", key="key", secret=SECRET)
    with pytest.raises(Unauthorized):
        await opening(b, Span(2, 4), credentials)
    assert not b.held


async def test_a_node_that_nobody_sees_may_not_open_one(add: Add) -> None:
    b = await add("b")
    with pytest.raises(NotReady, match="node 'a' is none of the cluster"):
        await opening(b, Span(2, 4))


def certified(folder: Path, name: str, ca: certificates.Identity) -> TlsFiles:
    return certificates.install(certificates.make_node_certificate(ca, [name]), folder / name)


async def test_with_certificates_both_sides_have_to_show_one(add: Add, tmp_path: Path) -> None:
    ca, foreign = certificates.make_ca("home"), certificates.make_ca("elsewhere")
    await add("a")
    b = await add("b", tls=certified(tmp_path, "b", ca))
    ours, theirs = certified(tmp_path, "a", ca), certified(tmp_path, "x", foreign)
    shard = await opening(
        b, Span(2, 4), Credentials("a", tls=client_context(ours.ca, ours.certificate, ours.key))
    )
    assert len(await shard.forward(0, 0, bytes(WIDTH * 4 * 200))) == WIDTH * 4 * 200
    await shard.stop()
    with pytest.raises((NotReady, ConnectionLost)):
        await opening(
            b, Span(2, 4), Credentials("a", tls=client_context(ours.ca, theirs.certificate, theirs.key))
        )
    with pytest.raises((NotReady, ConnectionLost)):
        await opening(b, Span(2, 4), Credentials("a"))


# Memory


async def test_a_shard_takes_memory_as_a_model_does(add: Add, opened: Opened) -> None:
    await add("a")
    b = await add("b")
    shard = await opened(b, Span(2, 4))
    resident = b.residency.residents[f"{DEMO} (layers 2-3 for a)"]
    assert (resident.state, resident.running) == ("ready", 1)
    assert resident.memory > shard.bytes
    await shard.stop()
    assert not b.held


async def test_what_is_in_use_leaves_no_room(add: Add, opened: Opened) -> None:
    await add("a")
    whole = (await (await add("x")).planner.plan(DEMO)).parts[0].bytes
    b = await add("b", memory=whole)
    await opened(b, Span(2, LAYERS))
    with pytest.raises(NotReady, match=r"node b: exo-demo \(layers 0-3 for x\) takes about"):
        await opening(b, Span(0, 4), Credentials("x"))


async def test_a_node_that_opens_layers_anew_has_lost_those_it_had(add: Add, opened: Opened) -> None:
    await add("a")
    b = await add("b")
    before = await opened(b, Span(2, 4))
    again = await opened(b, Span(3, 5))
    assert len(await again.forward(0, 0, bytes(WIDTH * 4))) == WIDTH * 4
    assert b.held == [f"{DEMO} (layers 3-4 for a)"]
    async with asyncio.timeout(PATIENCE):
        await until(lambda: not before.alive)


# Ends


async def test_the_end_of_the_coordinator_unloads_the_shard(add: Add) -> None:
    await add("a")
    b = await add("b")
    shard = await opening(b, Span(2, 4))
    assert len(b.held) == 1
    assert shard._session.connector is not None
    for each in [*shard._session.connector._acquired]:
        assert each.transport is not None
        each.transport.abort()  # as the end of its process would
    assert await gone(b) < NOTICED
    assert processes() == []
    await shard.stop()


async def test_leaving_while_it_loads_leaves_nothing(add: Add, tmp_path: Path) -> None:
    (tmp_path / "hangs").symlink_to(FOLDER, target_is_directory=True)
    await add("a")
    b = await add("b", engine=TROUBLED, folder=tmp_path)
    loading = asyncio.create_task(opening(b, Span(2, 4), model="hangs"))
    async with asyncio.timeout(PATIENCE):
        await until(lambda: bool(b.held and processes()))
    loading.cancel()
    await asyncio.wait([loading])
    await gone(b)
    assert processes() == []


async def test_a_shard_that_is_killed_is_told_in_time_and_its_memory_given_back(
    add: Add, opened: Opened
) -> None:
    await add("a")
    b = await add("b")
    shard = await opened(b, Span(2, 4))
    (process,) = processes()
    began = time.monotonic()
    os.kill(process, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await until(lambda: not shard.alive)
    assert time.monotonic() - began < NOTICED
    await gone(b)
    with pytest.raises(EngineFailed, match=r"node b: .* was killed by SIGKILL"):
        await shard.forward(0, 0, bytes(WIDTH * 4))


async def test_a_step_that_crashes_the_shard_fails_all_who_wait(add: Add, opened: Opened) -> None:
    await add("a")
    b = await add("b", engine=TROUBLED)
    shard = await opened(b, Span(2, 4))
    row = bytes(troubled.WIDTH * 4)
    steps = [shard.forward(0, position, row) for position in (troubled.CRASHES, 0, 1)]
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*steps, return_exceptions=True)
    assert [type(each) for each in results] == [EngineFailed] * 3
    assert "was killed by SIGSEGV" in str(results[0])


async def test_a_cancelled_step_disturbs_no_other(add: Add, opened: Opened) -> None:
    await add("a")
    b = await add("b", engine=TROUBLED)
    shard = await opened(b, Span(2, 4))
    rows = bytes(troubled.WIDTH * 4 * 200)
    one = await shard.forward(0, 0, rows)
    for turns in range(6):
        step = asyncio.create_task(shard.forward(0, 0, rows))
        for _ in range(turns):
            await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
        assert await shard.forward(1, 0, rows) == one
    assert not shard._waiting


async def test_a_node_that_is_killed_or_cut_off_is_told_in_time() -> None:
    command = [sys.executable, "-m", "tests.cluster.shard_nodes", "b", "a"]
    pipe = subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[2]
    )
    try:
        assert program.stdout is not None
        url = f"http://127.0.0.1:{int(await program.stdout.readline())}"

        async def lost_by(cut: signal.Signals, words: str) -> None:
            shard = await RemoteShard.start(url, "node b", ask(Span(2, 4)), Credentials("a"))

            async def steps_for_ever() -> None:
                while True:
                    await shard.forward(0, 0, bytes(WIDTH * 4))

            await shard.forward(0, 0, bytes(WIDTH * 4))
            began = time.monotonic()
            program.send_signal(cut)
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(ConnectionLost, match=words):
                    await steps_for_ever()
            assert time.monotonic() - began < NOTICED
            assert not shard.alive
            await shard.stop()

        await lost_by(signal.SIGSTOP, "node b was silent")  # as when its cable is pulled
        program.send_signal(signal.SIGCONT)
        # That it is asked anew does not wait until it has noticed, too.
        await lost_by(signal.SIGKILL, "node b (broke off|ended)")
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.kill()
        await program.wait()
        gc.collect()


async def test_a_coordinator_that_is_cut_off_is_given_up_in_time(add: Add) -> None:
    await add("a")
    b = await add("b")
    shard = await opening(b, Span(2, 4))
    shard._tasks[1].cancel()  # it does not say any more that it is there
    assert await gone(b) < NOTICED + 0.5
    async with asyncio.timeout(PATIENCE):
        await until(lambda: not shard.alive)
    await shard.stop()


async def test_of_several_nodes_all_open_or_none(add: Add) -> None:
    a = await add("a")
    b = await add("b")
    await add("c", engine="tests.shards.troubled")
    with pytest.raises(EngineFailed, match="node c: no engine of layers runs here"):
        await open_rest(
            [Share("b", Span(2, 4)), Share("c", Span(4, 6))], a.node.cluster(), ask, Credentials("a")
        )
    await gone(b)
    with pytest.raises(NotReady, match="node d, which has a part"):
        await open_rest([Share("d", Span(2, 4))], a.node.cluster(), ask, Credentials("a"))


async def test_leaving_while_some_are_open_leaves_none(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs").symlink_to(FOLDER, target_is_directory=True)
    a, b, c = await add("a"), await add("b"), await add("c", engine=TROUBLED)
    monkeypatch.setattr(c.planner, "folder", lambda model: tmp_path / "hangs")
    shares = [Share("b", Span(2, 4)), Share("c", Span(4, 6))]
    loading = asyncio.create_task(open_rest(shares, a.node.cluster(), ask, Credentials("a")))
    async with asyncio.timeout(PATIENCE):
        await until(lambda: bool(b.held and c.held and processes()))
        await until(lambda: all(each.shard for each in b.host._held.values()))
        loading.cancel()
        await asyncio.wait([loading])
    await gone(b)
    await gone(c)


async def test_nobody_there_is_told(add: Add) -> None:
    with pytest.raises(NotReady, match="cannot reach node b"):
        await RemoteShard.start("http://127.0.0.1:9", "node b", ask(Span(2, 4)), Credentials("a"))
