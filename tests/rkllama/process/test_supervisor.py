"""A model's process, driven through everything that can happen to it, on the stand-in runtime."""

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil
import pytest

from exo.chat import Sampling
from exo.errors import BadRequest, EngineFailed, ExoError, NotReady
from exo.store.catalogue import BUNDLED
from rkllama.process import frames
from rkllama.process.frames import Abort, Done, Load, Loaded, Run
from rkllama.process.supervisor import ModelProcess
from rkllama.process.worker import Worker
from rkllama.vendor.asks import AnyAsk, Ask, Embed, Event, Finished, Options, Prompt, Stepwise, Token, Vector
from rkllama.vendor.runtime import Runtime

RELEASES = ("1.1.4", "1.2.0", "1.2.3", "1.3.0")
# Written out, as the runtime is kept from putting prompts into its own template.
TEXT = "<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n"
SUM = Ask(inputs=(Prompt(TEXT),))
FOLDER = BUNDLED / "exo-demo"
STEPWISE = Stepwise(prompt=TEXT, vocabulary=FOLDER, sampling=Sampling(temperature=0, max_tokens=200))

Start = Callable[..., Awaitable[ModelProcess]]


@pytest.fixture
async def start(build: Path, file_for: Callable[..., Path]) -> AsyncIterator[Start]:
    """Starts processes, and sees to it that none is left."""
    started: list[ModelProcess] = []

    async def start_one(
        release: str = "1.2.3", *, abort_seconds: float = 10.0, **standin: str
    ) -> ModelProcess:
        sampling = Sampling(top_k=1, repeat_penalty=1.0, max_tokens=200)
        options = Options(model=file_for(release), sampling=sampling)
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


async def answer(process: ModelProcess, ask: AnyAsk = SUM) -> str:
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
    first = await answer(process)
    assert "12 + 7 = " in first
    assert await answer(process) == first
    assert process.facts.target_platform == "RK3588"


@pytest.mark.parametrize("release", RELEASES)
async def test_max_tokens_cut_an_answer(start: Start, release: str) -> None:
    process = await start(release)
    for limit in (1, 5):
        ask = msgspec.structs.replace(SUM, max_tokens=limit)
        async with aclosing(process.run(ask)) as events:
            *tokens, end = [event async for event in events]
        assert len(tokens) == limit
        assert isinstance(end, Finished)
        assert end.cut
        assert not end.aborted


@pytest.mark.parametrize("release", RELEASES[1:])
async def test_an_answer_drawn_here_is_the_runtimes_own(start: Start, release: str) -> None:
    process = await start(release)
    whole = await answer(process)
    assert await answer(process, STEPWISE) == whole
    form = '%llguidance {}\nstart: "yes" | "no"\n'
    assert await answer(process, msgspec.structs.replace(STEPWISE, form=form)) in ("yes", "no")
    assert await answer(process) == whole


async def test_what_a_run_cannot_do_is_refused_and_the_next_runs(start: Start, tmp_path: Path) -> None:
    process = await start("1.1.4")
    with pytest.raises(BadRequest, match="no logits mode"):
        await answer(process, STEPWISE)
    assert "12 + 7 = " in await answer(process)
    process = await start("1.3.0")
    with pytest.raises(EngineFailed, match=r"no tokenizer\.json"):
        await answer(process, msgspec.structs.replace(STEPWISE, vocabulary=tmp_path))
    assert "12 + 7 = " in await answer(process, STEPWISE)


@pytest.mark.parametrize("release", RELEASES)
async def test_a_vector_crosses_the_pipe(start: Start, release: str) -> None:
    process = await start(release)
    async with aclosing(process.run(Embed("What is 12 + 7?"))) as events:
        vector, end = [event async for event in events]
    assert isinstance(vector, Vector)
    assert len(vector.values) == 128
    assert vector.tokens == 9
    assert isinstance(end, Finished)
    assert "12 + 7 = " in await answer(process)


@pytest.mark.parametrize("release", RELEASES[1:])
@pytest.mark.parametrize("heard", [1, 4])
async def test_an_answer_drawn_here_is_left_early(start: Start, release: str, heard: int) -> None:
    process = await start(release, STANDIN_ABORT_ON_REENTRY="1")
    whole = await answer(process)
    for _ in range(3):
        async with aclosing(process.run(STEPWISE)) as events:
            for _ in range(heard):
                assert isinstance(await anext(events), Token)
        assert await answer(process) == whole


@pytest.mark.parametrize("ask", [SUM, STEPWISE, Embed(TEXT)], ids=["native", "stepwise", "embed"])
async def test_a_prefill_is_left_at_any_moment(start: Start, ask: AnyAsk) -> None:
    """It would take minutes at this pace, and an abort may come before the runtime has begun with it."""
    process = await start("1.3.0", STANDIN_PACE="1000000/10", STANDIN_ABORT_ON_REENTRY="1")
    for turns in range(30):
        running = asyncio.create_task(answer(process, ask))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert process.alive


def test_an_abort_that_finds_nothing_to_abort_is_repeated(
    build: Path, file_for: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the run goes to the runtime only once the abort has been there in vain; its prefill would take
    minutes."""
    monkeypatch.setenv("STANDIN_PACE", "1000000/10")
    told = threading.Event()
    run, abort = Runtime.run, Runtime.abort

    def run_late(runtime: Runtime, ask: Ask, on_event: Callable[[Event], None]) -> Finished:
        assert told.wait(20)
        return run(runtime, ask, on_event)

    def abort_and_tell(runtime: Runtime) -> bool:
        heard = abort(runtime)
        told.set()
        return heard

    monkeypatch.setattr(Runtime, "run", run_late)
    monkeypatch.setattr(Runtime, "abort", abort_and_tell)
    ours, theirs = socket.socketpair()
    working = threading.Thread(target=Worker(theirs).work, daemon=True)
    with ours, theirs:
        working.start()
        ours.settimeout(20)
        with ours.makefile("rwb") as server:
            for message in (
                Load(Options(model=file_for("1.3.0")), build / "1.3.0" / "librkllmrt.so"),
                Run(1, SUM),
                Abort(1),
            ):
                server.write(frames.encode(message))
            server.flush()

            def next_frame() -> frames.FromWorker:
                (size,) = frames.LENGTH.unpack(server.read(frames.LENGTH.size))
                return frames.decode_from_worker(server.read(size))

            assert isinstance(next_frame(), Loaded)
            ended = next_frame()
            assert isinstance(ended, Done)
            assert ended.finished.aborted
        ours.shutdown(socket.SHUT_RDWR)
        working.join(20)
    assert not working.is_alive()


async def test_what_only_some_runs_need_is_loaded_by_them(start: Start) -> None:
    """A board's memory is for its models."""
    process = await start("1.3.0")

    def loaded() -> set[str]:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        return {name for name in ("numpy", "llguidance") if f"/{name}/" in maps}

    await answer(process)
    assert loaded() == set()
    small = process.memory
    await answer(process, msgspec.structs.replace(SUM, max_tokens=1))
    assert loaded() == set()
    async with aclosing(process.run(Embed("Hello"))) as events:
        assert [event async for event in events]
    assert loaded() == {"numpy"}
    await answer(process, STEPWISE)
    assert loaded() == {"numpy", "llguidance"}
    assert small is not None
    assert process.memory is not None
    assert process.memory > small + (4 << 20)


async def test_memory_is_what_the_process_holds(start: Start) -> None:
    process = await start()
    measured = process.memory
    assert measured is not None
    assert abs(measured - psutil.Process(process.pid).memory_info().rss) < 1 << 20
    os.kill(process.pid, signal.SIGKILL)
    while process.memory is not None:
        await asyncio.sleep(0)
    await process.stop()
    assert process.memory is None


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


async def test_who_is_cancelled_again_meanwhile_leaves_no_run_behind(start: Start) -> None:
    """As a time-out does it, and then a client that leaves: the next run would meet this one, or the process
    be taken for busy for ever."""
    process, begun = (
        await start(STANDIN_FAULT="slow-abort:150", STANDIN_ABORT_ON_REENTRY="1"),
        asyncio.Event(),
    )
    whole = await answer(process)

    async def ask() -> None:
        async with aclosing(process.run(SUM)) as events:
            async for _ in events:
                begun.set()

    asking = asyncio.create_task(ask())
    await begun.wait()
    for _ in range(3):
        asking.cancel()
        # It comes to where it waits for the runtime.
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await answer(process) == whole


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
