"""llama.cpp's calls, which block, made from an event loop.

Theory of operation. `handle_completions` blocks a thread for each request and calls back once a token; the
callback only appends to a queue and wakes the loop, at most once until the loop has looked. A callback that
returns true makes llama.cpp free the slot. For long prompts it asks to be called back during prefill, too,
which is the only place where that can be cancelled.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

from exo.errors import EngineFailed

T = TypeVar("T")
Chunk: TypeAlias = dict[str, Any]
"""A piece of an answer, as llama.cpp's server makes it."""


class Threads:
    """So many calls at once; more wait for each other. llama.cpp's own failures raise `EngineFailed`."""

    def __init__(self, number: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(number, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns; cancelled, still waits for its end, since a thread has no other."""
        done = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise
        return _result(done)

    async def chunks(self, call: Callable[[Callable[[Chunk], bool]], object]) -> AsyncGenerator[Chunk, None]:
        """Chunks of one completion as llama.cpp makes them. `call` is given what to call back. Closing it
        returns when the slot is free."""
        loop = asyncio.get_running_loop()
        chunks: deque[Chunk] = deque()
        news = asyncio.Event()
        left = awake = False

        def wake() -> None:
            nonlocal awake
            awake = False
            news.set()

        def on_chunk(chunk: Chunk) -> bool:
            nonlocal awake
            chunks.append(chunk)
            if not awake:
                awake = True
                loop.call_soon_threadsafe(wake)
            return left

        done = loop.run_in_executor(self._pool, call, on_chunk)
        done.add_done_callback(lambda _: news.set())
        try:
            while not done.done() or chunks:
                await news.wait()
                news.clear()
                while chunks:
                    yield chunks.popleft()
            _result(done)
        finally:
            left = True
            await asyncio.wait([done])

    def close(self) -> None:
        """No more calls; those under way end by themselves."""
        self._pool.shutdown(wait=False)


def _result(done: "asyncio.Future[T]") -> T:
    try:
        return done.result()
    except RuntimeError as error:
        raise EngineFailed(f"llama.cpp: {error}") from error
