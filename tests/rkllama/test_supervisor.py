"""A model's process, driven through everything that can happen to it, on the stand-in runtime."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from exo.chat import Sampling
from exo.errors import EngineFailed, ExoError, NotReady
from rkllama.asks import Ask, Finished, Options, Prompt, Token
from rkllama.supervisor import ModelProcess

RELEASES = ("1.1.4", "1.2.0", "1.2.3", "1.3.0")
SUM = Ask(inputs=(Prompt("What is 12 + 7?"),))
# Before 1.2.0 the runtime applies no template of its own.
WRITTEN_OUT = Ask(inputs=(Prompt("<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n"),))

Start = Callable[..., Awaitable[ModelProcess]]


@pytest.fixture
async def start(build: Path, file_for: Callable[..., Path]) -> AsyncIterator[Start]:
    """Starts processes, and sees to it that none is left."""
    started: list[ModelProcess] = []

    async def start_one(
        release: str = "1.2.3", *, abort_seconds: float = 10.0, **standin: str
    ) -> ModelProcess:
        options = Options(model=file_for(release), sampling=Sampling(top_k=1, max_tokens=200))
        process = await ModelProcess.start(
            options,
            build / release / "librkllmrt.so",
            environment={**os.environ, **standin},
            abort_seconds=abort_seconds,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        await process.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)
    # asyncio's transports of processes are unmade by the collector, and warn where a loop is gone.
    gc.collect()


async def answer(process: ModelProcess, ask: Ask = SUM) -> str:
    """The text of a run, which must end well."""
    async with aclosing(process.run(ask)) as events:
        seen = [event async for event in events]
    assert isinstance(seen[-1], Finished)
    assert not seen[-1].aborted
    return b"".join(event.text for event in seen if isinstance(event, Token)).decode()


@pytest.mark.parametrize("release", RELEASES)
async def test_it_answers_again_and_again(start: Start, release: str) -> None:
    process = await start(release)
    assert process.release.startswith(release[:3])
    ask = WRITTEN_OUT if release == "1.1.4" else SUM
    first = await answer(process, ask)
    assert "12 + 7 = " in first
    assert await answer(process, ask) == first
    assert process.facts.target_platform == "RK3588"


@pytest.mark.parametrize("release", RELEASES)
async def test_a_run_left_early_leaves_the_runtime_idle(start: Start, release: str) -> None:
    process = await start(release, STANDIN_ABORT_ON_REENTRY="1")
    whole = await answer(process)
    for _ in range(5):
        async with aclosing(process.run(SUM)) as events:
            await anext(events)
        assert await answer(process) == whole


async def test_a_cancelled_run_leaves_the_runtime_idle(start: Start) -> None:
    process = await start(STANDIN_TOKEN_MS="5")
    whole = await answer(process)
    running = asyncio.create_task(answer(process))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await answer(process) == whole


async def test_a_second_run_at_once_is_refused(start: Start) -> None:
    process = await start()
    async with aclosing(process.run(SUM)) as events:
        await anext(events)
        with pytest.raises(NotReady, match="one thing at a time"):
            await answer(process)


async def test_a_crash_fails_the_run_and_is_named(start: Start) -> None:
    process = await start(STANDIN_FAULT="crash-decode:3")
    with pytest.raises(EngineFailed, match=r"killed by SIG"):
        await answer(process)
    assert not process.alive
    with pytest.raises(EngineFailed):
        await answer(process)


async def test_a_kill_from_outside_fails_the_run(start: Start) -> None:
    process = await start(STANDIN_TOKEN_MS="5")
    async with aclosing(process.run(SUM)) as events:
        await anext(events)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="SIGKILL"):
            assert [event async for event in events]
    assert not process.alive


async def test_a_runtime_that_does_not_stop_is_ended(start: Start) -> None:
    process = await start(STANDIN_FAULT="hang-decode:3", abort_seconds=0.2)
    # Nothing tells that a runtime hangs but that nothing comes.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await answer(process)
    assert not process.alive


async def test_a_slow_abort_is_waited_for(start: Start) -> None:
    process = await start(STANDIN_FAULT="slow-abort:150", STANDIN_ABORT_ON_REENTRY="1")
    whole = await answer(process)
    async with aclosing(process.run(SUM)) as events:
        await anext(events)
    assert await answer(process) == whole


FAILED_LOADS = {
    "bad-magic": "model file is damaged",
    "npu-oom": "out of memory",
    "old-driver": "driver",
    "crash-init": "killed by SIG",
    "init-fail": "could not load",
}


@pytest.mark.parametrize("fault", FAILED_LOADS)
async def test_a_failed_load_says_why_and_leaves_nothing(start: Start, fault: str) -> None:
    with pytest.raises(ExoError, match=FAILED_LOADS[fault]):
        await start(STANDIN_FAULT=fault)


async def test_a_missing_library_is_named(file_for: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"nothing\.so"):
        await ModelProcess.start(Options(model=file_for("1.2.3")), tmp_path / "nothing.so")


async def test_stopping_ends_a_run_and_the_process(start: Start) -> None:
    process = await start(STANDIN_FAULT="hang-prefill")
    running = asyncio.create_task(answer(process))
    await asyncio.sleep(0)
    await process.stop()
    with pytest.raises(EngineFailed, match="was stopped"):
        await running
    await process.stop()


async def test_stopping_ends_a_process_that_does_nothing_any_more(start: Start) -> None:
    process = await start()
    os.kill(process.pid, signal.SIGSTOP)
    await process.stop()
    assert not process.alive


async def test_its_repr_is_a_status_line(start: Start) -> None:
    process = await start()
    assert repr(process) == f"<ModelProcess {process.pid} idle after 0 runs>"
    async with aclosing(process.run(SUM)) as events:
        await anext(events)
        assert repr(process) == f"<ModelProcess {process.pid} busy after 1 runs>"
