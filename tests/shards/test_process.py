"""A shard's process, driven through everything that can happen to it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import uvloop

from exo.cards import Span
from exo.chat import Sampling
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.shards.frames import Open
from exo.shards.process import ShardProcess
from tests.engines import numpy_shard
from tests.shards import troubled
from tests.shards.conftest import CONTEXT, FOLDER, LAYERS, TROUBLED, Start
from tests.shards.workers import workers

TOKENS = (504, 40, 41, 42, 43, 44)


def states(*rows: float) -> bytes:
    return np.repeat(np.array(rows, "<f4")[:, None], troubled.WIDTH, axis=1).tobytes()


def whole() -> numpy_shard.NumpyShard:
    """The model in this process."""
    return numpy_shard.open_shard(
        FOLDER,
        Span(0, LAYERS),
        ends=True,
        slots=1,
        context=CONTEXT,
        dtype="auto",
        threads=None,
        progress=lambda done: None,
    )


# What it computes


async def test_spans_after_each_other_are_the_whole_model(start: Start) -> None:
    first, rest = await start(0, 2), await start(2, LAYERS)
    assert (first.width, rest.width) == (128, 128)
    assert 0 < rest.bytes < whole().bytes
    hidden = await rest.forward(0, 0, await first.embed(0, 0, TOKENS))
    there = np.frombuffer(hidden, "<f4").reshape(len(TOKENS), 128)
    here = whole()
    np.testing.assert_allclose(there, here.forward(0, 0, here.embed(TOKENS)), atol=1e-4)
    await first.begin(0, Sampling(temperature=0))
    drawn = await first.draw(0, hidden)
    logits = whole().read(0, 0, TOKENS, wanted=True)
    assert logits is not None
    assert drawn.token == int(logits.argmax())


async def test_a_whole_model_reads_and_draws_in_one(start: Start) -> None:
    shard = await start()
    await shard.begin(0, Sampling(temperature=0), logprobs=2)
    await shard.read(0, 0, TOKENS[:3])
    drawn = await shard.next(0, 3, TOKENS[3:])
    logits = whole().read(0, 0, TOKENS, wanted=True)
    assert logits is not None
    assert drawn.token == int(logits.argmax())
    assert drawn.odds is not None
    assert drawn.odds.top[0] == (drawn.token, drawn.odds.chosen)
    assert len(drawn.odds.top) == 2


async def test_only_the_rows_that_are_wanted_come_back(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    assert await shard.forward(0, 0, states(1, 2, 3)) == states(2, 3, 4)
    assert await shard.forward(0, 0, states(1, 2, 3), rows="last") == states(4)
    assert await shard.forward(0, 0, states(1, 2, 3), rows="none") == b""


async def test_megabytes_of_hidden_states_cross_whole(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    many = np.random.default_rng(0).standard_normal((1 << 20, troubled.WIDTH), np.float32)
    out = await asyncio.gather(*(shard.forward(0, 0, many[at:].tobytes()) for at in range(3)))
    for at, each in enumerate(out):
        assert each == (many[at:] + 1).tobytes()


# What is asked of it fails


async def test_a_step_that_fails_is_named_and_the_next_one_runs(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    with pytest.raises(EngineFailed, match="ValueError: no such luck"):
        await shard.forward(0, troubled.RAISES, states(1))
    with pytest.raises(ContextLengthExceeded, match="it is too long") as refused:
        await shard.forward(0, troubled.REFUSES, states(1))
    assert refused.value.param == "prompt"
    with pytest.raises(EngineFailed, match="KeyError: 1"):
        await shard.free(1)
    assert await shard.forward(0, 0, states(1)) == states(2)


async def test_hidden_states_of_another_width_are_refused(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    with pytest.raises(EngineFailed, match="13 bytes are no hidden states of 4 numbers each"):
        await shard.forward(0, 0, b"a" * 13)
    with pytest.raises(EngineFailed, match="0 bytes are no hidden states"):
        await shard.forward(0, 0, b"")


async def test_a_token_without_an_answer_is_refused(start: Start) -> None:
    shard = await start()
    with pytest.raises(EngineFailed, match="no answer has begun in slot 1"):
        await shard.next(1, 0, TOKENS)
    await shard.begin(1, Sampling(temperature=0))
    await shard.next(1, 0, TOKENS)
    await shard.free(1)
    with pytest.raises(EngineFailed, match="no answer has begun in slot 1"):
        await shard.next(1, 0, TOKENS)


async def test_what_cannot_be_drawn_is_refused(start: Start) -> None:
    shard = await start()
    with pytest.raises(BadRequest, match="512") as refused:
        await shard.begin(0, Sampling(logit_bias={512: 1.0}))
    assert refused.value.param == "logit_bias"
    with pytest.raises(BadRequest, match="the grammar") as refused:
        await shard.begin(0, Sampling(), form="root ::= (")
    assert refused.value.param == "grammar"


# Calls that are left


async def test_a_call_that_is_left_disturbs_no_other(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    for turns in range(5):
        left = asyncio.create_task(shard.forward(0, 0, states(*range(100_000))))
        after = asyncio.create_task(shard.forward(0, 0, states(7)))
        for _ in range(turns):
            await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert await after == states(8)


async def test_calls_are_answered_in_order_to_whoever_asked(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    out = await asyncio.gather(*(shard.forward(0, 0, states(number)) for number in range(50)))
    assert out == [states(number + 1) for number in range(50)]


# Its end


async def test_a_crash_fails_every_call_and_is_named(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    calls = [asyncio.create_task(shard.forward(0, at, states(1))) for at in (troubled.HANGS, 0, 0)]
    await asyncio.sleep(0)
    os.kill(shard.pid, signal.SIGKILL)
    for call in calls:
        with pytest.raises(EngineFailed, match=r"layers 2-3 of exo-demo was killed by SIGKILL.*memory"):
            await call
    assert not shard.alive
    with pytest.raises(EngineFailed, match="SIGKILL"):
        await shard.forward(0, 0, states(1))


async def test_the_last_it_said_is_told(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    with pytest.raises(EngineFailed, match="killed by SIGSEGV; the last it said: about to crash"):
        await shard.forward(0, troubled.CRASHES, states(1))


async def test_a_line_without_an_end_does_no_harm(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    assert await shard.forward(0, troubled.PRINTS, states(1)) == states(2)
    with pytest.raises(EngineFailed, match="SIGSEGV"):
        await shard.forward(0, troubled.CRASHES, states(1))


async def test_stopping_ends_a_step_and_the_process(start: Start) -> None:
    shard = await start(2, 4, engine=TROUBLED)
    hanging = asyncio.create_task(shard.forward(0, troubled.HANGS, states(1)))
    await asyncio.sleep(0)
    await shard.stop()
    with pytest.raises(EngineFailed, match="was stopped"):
        await hanging
    await shard.stop()
    assert repr(shard) == f"<ShardProcess {shard.pid} layers 2-3 dead after 1 calls>"


def test_it_dies_with_the_node(tmp_path: Path) -> None:
    """Even in the middle of a step that comes to no end, where it hears nothing."""
    node = tmp_path / "node.py"
    node.write_text(f"""
import asyncio
from pathlib import Path
from exo.cards import Span
from exo.shards.frames import Open
from exo.shards.process import ShardProcess

async def main():
    shard = await ShardProcess.start(Open(
        engine="{TROUBLED}", folder=Path("."), span=Span(2, 4), ends=False, slots=1, context=8
    ))
    hanging = asyncio.create_task(shard.forward(0, {troubled.HANGS}, bytes(16)))
    await asyncio.sleep(0)
    print(shard.pid, flush=True)
    await hanging

asyncio.run(main())
""")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, node], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        shard = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([shard], timeout=20)
    assert not shard.is_running() or shard.status() == psutil.STATUS_ZOMBIE


# Its beginning


async def test_progress_of_loading_is_told(start: Start) -> None:
    told: list[float] = []
    await start(2, 4, engine=TROUBLED, progress=told.append)
    assert told == [0.5, 1.0]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("refused", "/refused: is refused"), ("exits", "exit status 1; the last it said: exited for no reason")],
)
async def test_a_load_that_fails_says_why_and_leaves_nothing(start: Start, folder: str, reason: str) -> None:
    with pytest.raises(EngineFailed, match=reason):
        await start(2, 4, engine=TROUBLED, folder=Path("/") / folder)
    assert workers() == []


async def test_a_module_that_opens_no_shards_is_named(start: Start) -> None:
    with pytest.raises(EngineFailed, match=r"tests\.shards\.closed is no engine of layers"):
        await start(engine="tests.shards.closed")


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_a_load_that_is_cancelled_leaves_nothing(start: Start, turns: int) -> None:
    loading = asyncio.create_task(start(2, 4, engine=TROUBLED, folder=Path("/hangs")))
    for _ in range(turns):
        await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert workers() == []


async def test_a_load_that_hangs_can_be_cancelled(start: Start) -> None:
    begun = asyncio.Event()
    loading = asyncio.create_task(
        start(2, 4, engine=TROUBLED, folder=Path("/hangs"), progress=lambda done: begun.set())
    )
    await begun.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert workers() == []


def test_it_runs_under_the_nodes_own_loop() -> None:
    async def run() -> None:
        shard = await ShardProcess.start(
            Open(engine=TROUBLED, folder=FOLDER, span=Span(2, 4), ends=False, slots=1, context=8)
        )
        assert await shard.forward(0, 0, states(1)) == states(2)
        with pytest.raises(EngineFailed, match="SIGSEGV; the last it said: about to crash"):
            await shard.forward(0, troubled.CRASHES, states(1))
        await shard.stop()

    uvloop.run(run())
