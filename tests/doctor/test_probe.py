"""Probes end in time and with a reason, whatever they meet."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from exo.doctor.evidence import Unread
from exo.doctor.gather.probe import awaited, blocking, ending, program
from exo.errors import EngineFailed, NotReady
from tests.e2e.node import PATIENCE


async def test_what_is_found_is_handed_on() -> None:
    assert await blocking("Disk", 5.0, lambda: 42) == 42


async def test_what_fails_is_told_with_its_reason() -> None:
    def ours() -> int:
        raise NotReady("the key is missing")

    def anything() -> int:
        raise ZeroDivisionError("division by zero")

    assert await blocking("Keys", 5.0, ours) == Unread("Keys", "the key is missing")
    assert await blocking("Sums", 5.0, anything) == Unread("Sums", "ZeroDivisionError: division by zero")


async def test_what_hangs_is_given_up() -> None:
    let_go = threading.Event()
    try:
        found = await blocking("Disk", 0.05, let_go.wait)
    finally:
        let_go.set()
    assert found == Unread("Disk", "nothing came within 0.05 s")


def test_a_thread_that_hangs_does_not_keep_the_program() -> None:
    code = (
        "import asyncio, threading\n"
        "from exo.doctor.gather.probe import blocking\n"
        "print(asyncio.run(blocking('Disk', 0.05, threading.Event().wait)).why)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert ended.stdout == b"nothing came within 0.05 s\n"


async def test_cancelling_cancels() -> None:
    task = asyncio.create_task(awaited("Node", 60.0, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_program_tells_its_status_and_output() -> None:
    said = await program(sys.executable, "-c", "import sys; print(1); sys.exit('no luck')")
    assert said == (1, b"1\n", b"no luck\n")
    assert ending(said[0], said[2]) == "no luck"
    assert ending(3, b"") == "exit status 3"
    with pytest.raises(EngineFailed, match="/nowhere cannot be started"):
        await program("/nowhere")


async def test_a_program_given_up_leaves_no_process_nor_any_of_its_own(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {told}.new; mv {told}.new {told}; wait"
    task = asyncio.create_task(awaited("x", 60.0, program("/bin/sh", "-c", script)))
    while not told.exists():
        await asyncio.sleep(0.01)
    child = psutil.Process(int(told.read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    try:
        async with asyncio.timeout(PATIENCE):  # it is killed, and on its way
            while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
