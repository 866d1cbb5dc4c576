"""Probes that end in time, whatever they meet: a disk that hangs, a program that does not answer.

What is asked of the system blocks, and cannot be cancelled, so it runs in a thread that nobody waits for: the
interpreter ends without it.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from exo.doctor.evidence import Unread
from exo.errors import EngineFailed, ExoError

T = TypeVar("T")


async def awaited(what: str, seconds: float, work: Awaitable[T]) -> T | Unread:
    """The result of `work`, or why there is none within so many seconds. Raises only cancellation."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        return Unread(what, f"nothing came within {seconds:g} s")
    except ExoError as error:
        return Unread(what, error.message)
    except Exception as error:
        # Whatever it is, the other probes are worth having.
        return Unread(what, f"{type(error).__name__}: {error}")


async def blocking(what: str, seconds: float, work: Callable[[], T]) -> T | Unread:
    """The same of something that blocks."""
    return await awaited(what, seconds, in_thread(work))


async def in_thread(work: Callable[[], T]) -> T:
    """Like `asyncio.to_thread`, whose threads the end of the program would wait for."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():  # given up
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            value, failure = work(), None
        except BaseException as error:
            value, failure = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, daemon=True).start()
    return await result


async def program(*command: str, env: dict[str, str] | None = None) -> tuple[int, bytes, bytes]:
    """Exit status and output of a program, which does not outlive the caller's patience, nor do its children.
    Raises `EngineFailed` where it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        out, said = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.returncode is not None
    return process.returncode, out, said


def ending(code: int, said: bytes) -> str:
    """Why a program failed: its last line, or the signal that ended it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"{name} ended it" + (": this CPU lacks what it is compiled for" if name == "SIGILL" else "")
    lines: Sequence[str] = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"exit status {code}"
