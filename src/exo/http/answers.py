"""Answers under way: n generators run at once, their deltas taken in batches.

Theory of operation. Each request's generator is driven by a task of its own, which appends to one bounded
buffer; the HTTP handler takes whatever has gathered, encodes it and writes it once. So a slow client holds
the generators back (they wait for room), a fast engine costs one write for many tokens, and a slow one is
passed on token by token. Leaving the context cancels the tasks and waits for them: when it is left, the
hardware has been let go.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self, TypeAlias

from exo.chat import ChatRequest, Delta, Usage
from exo.choice.routing import asked
from exo.engine import Responder
from exo.errors import EngineFailed, ExoError
from exo.metrics import Answer
from exo.wire.openai import total_usage

Batch: TypeAlias = list[tuple[int, Delta]]

# Deltas that may wait for a slow client, over all choices of a request.
_ROOM = 256


class Answers:
    """The answers to `requests`, all of one HTTP request. Use as an async context manager."""

    def __init__(
        self, responder: Responder, requests: Sequence[ChatRequest], meters: Sequence[Answer]
    ) -> None:
        self._responder = responder
        self._requests = requests
        self._meters = meters
        self._batch: Batch = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._running = 0
        self._error: ExoError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._running = len(self._requests)
        self._tasks = [loop.create_task(self._drive(index)) for index in range(self._running)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        # Our own cancellation must not cut this short: the hardware is let go in here.
        await asyncio.shield(asyncio.gather(*self._tasks, return_exceptions=True))

    async def take(self, seconds: float | None) -> Batch:
        """What has come since the last call, waiting up to `seconds` for more; empty when none did.

        Raises the first failure once everything before it has been taken. Call while not `over`.
        """
        if not self._batch and not self._error and self._running:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if not self._batch and self._error:
            raise self._error
        batch, self._batch = self._batch, []
        self._news.clear()
        self._room.set()
        return batch

    @property
    def over(self) -> bool:
        """Every answer has ended and has been taken."""
        return not self._running and not self._batch and not self._error

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token of any of the answers."""
        return min((meter.ttft for meter in self._meters if meter.ttft is not None), default=None)

    def usage(self, n: int) -> Usage:
        """Tokens of all answers, the prompt that `n` answers in a row share counted once."""
        return total_usage([meter.usage for meter in self._meters], n)

    def spent(self) -> Usage:
        """Tokens that the answers have taken so far. An engine tells at the end only: of an answer that does
        not get there, each delta counts as a token, and the prompt, once it was read, as routing reckons
        it."""
        return total_usage([self._spent(*each) for each in zip(self._requests, self._meters, strict=True)])

    @staticmethod
    def _spent(request: ChatRequest, meter: Answer) -> Usage:
        if meter.usage != Usage() or not meter.pieces:
            return meter.usage
        return Usage(prompt_tokens=asked(request).prompt, completion_tokens=meter.pieces)

    def fail(self, error: ExoError) -> None:
        """Ends the answers from outside: what has come can still be taken, then `take` raises."""
        self._error = self._error or error
        self._news.set()
        for task in self._tasks:
            task.cancel()

    async def _drive(self, index: int) -> None:
        request, meter = self._requests[index], self._meters[index]
        try:
            with meter:
                async with aclosing(self._responder.respond(request)) as deltas:
                    async for delta in deltas:
                        meter.delta(delta)
                        self._batch.append((index, delta))
                        self._news.set()
                        if len(self._batch) >= _ROOM:
                            self._room.clear()
                            await self._room.wait()
        except ExoError as error:
            self.fail(error)
        except Exception as error:
            failure = EngineFailed(f"the engine broke: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.fail(failure)
        finally:
            self._running -= 1
            self._news.set()
