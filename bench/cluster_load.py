"""Clients of a cluster: each asks again as soon as it has its answer, and every token's time is kept."""

import asyncio
import contextlib
import itertools
import json
import re
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import msgspec

from exo.http.headers import HOP_HEADER, ROUTE_HEADER

Target = tuple[str, int]
"""Address and port."""

_CONTENT = re.compile(rb'"delta":\{"content":("(?:[^"\\]|\\.)+")')
# What a client waits before it asks again where it was refused.
_PAUSE = 0.05
BEYOND = 0.2
"""Seconds to go on after what is measured: each node's next token says how far it was."""


class Question(msgspec.Struct, frozen=True):
    """A streamed request, whole, the tokens its answer must have, and its text where that is known."""

    request: bytes
    tokens: int
    text: str | None = None


class Load:
    """What clients saw: `times` are those of all tokens, by the node that said them, on `time.perf_counter`'s
    clock; `lost` says of each answer that was not whole and right what was wrong with it."""

    def __init__(self, questions: Callable[[], Question]) -> None:
        self._questions = questions
        self.times: dict[str, list[float]] = defaultdict(list)
        self.whole = 0
        self.lost: list[str] = []

    def rate(self, begin: float, end: float) -> float:
        """Tokens per second of all nodes together in between.

        A node's tokens come one by one at its pace, so at both ends the one on its way counts by the part of
        its time that had passed: a window of 30 tokens would be right to 3 % only if whole ones were counted.
        """
        return sum(self.rates(begin, end).values())

    def rates(self, begin: float, end: float) -> Mapping[str, float]:
        """The same by node."""
        return {
            node: (_said(times, end) - _said(times, begin)) / (end - begin)
            for node, times in self.times.items()
        }

    async def converse(self, target: Target) -> None:
        """One client, until it is cancelled, which is a hang-up."""
        while True:
            with contextlib.ExitStack() as held:
                try:
                    reader, writer = await asyncio.open_connection(*target)
                    held.callback(writer.close)
                    while True:
                        await self._answer(reader, writer, self._questions())
                except (OSError, EOFError, ValueError) as error:
                    self.lost.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_PAUSE)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: Question
    ) -> None:
        """Raises `ValueError` for an answer that is not what it should be."""
        writer.write(question.request)
        status = await reader.readline()
        headers = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if b" 200 " not in status or headers.get("transfer-encoding") != "chunked":
            raise ValueError(f"not a stream: {status!r} {headers}")
        times = self.times[headers.get(ROUTE_HEADER, "").partition(": ")[0]]
        events, last, pieces = b"", b"", list[str]()
        async for chunk in _chunks(reader):
            now = time.perf_counter()
            *lines, events = (events + chunk).split(b"\n\n")
            for event in lines:
                if found := _CONTENT.search(event):
                    times.append(now)
                    pieces.append(json.loads(found[1]))
            if lines:
                last = lines[-1]
        text = "".join(pieces)
        if last != b"data: [DONE]":
            raise ValueError(f"it broke off after {len(pieces)} tokens: {last!r}")
        if len(pieces) != question.tokens or (question.text is not None and text != question.text):
            raise ValueError(f"{question.tokens} tokens were to come, and {len(pieces)} came: {text!r}")
        self.whole += 1


@contextlib.asynccontextmanager
async def clients(targets: Sequence[Target], questions: Callable[[], Question]) -> AsyncIterator[Load]:
    """A client for each target, all gone at the end."""
    load = Load(questions)
    tasks = [asyncio.create_task(load.converse(target)) for target in targets]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measured(
    targets: Sequence[Target], questions: Callable[[], Question], *, warm_up: float, seconds: float
) -> float:
    """Tokens per second of so many seconds after the warm-up. Raises for an answer that went wrong."""
    async with clients(targets, questions) as load:
        await asyncio.sleep(warm_up)
        begin = time.perf_counter()
        await asyncio.sleep(seconds)
        end = time.perf_counter()
        await asyncio.sleep(BEYOND)
        if load.lost:
            raise RuntimeError(f"{len(load.lost)} answers were lost: {load.lost[0]}")
        return load.rate(begin, end)


def in_turn(questions: Sequence[Question]) -> Callable[[], Question]:
    """The questions one after the other, over and over."""
    cycle: Iterator[Question] = itertools.cycle(questions)
    return lambda: next(cycle)


def to_this_node(question: Question) -> Question:
    """The same, to be answered by the node it is sent to and no other."""
    head, end, body = question.request.partition(b"\r\n\r\n")
    hop = f"\r\n{HOP_HEADER}: bench".encode()
    return msgspec.structs.replace(question, request=head + hop + end + body)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of a body in chunks (RFC 9112, 7.1)."""
    while line := await reader.readline():
        data = await reader.readexactly(int(line, 16) + 2)
        if len(data) == 2:
            return
        yield data[:-2]
    raise EOFError("the connection was closed within an answer")


def _said(times: Sequence[float], at: float) -> float:
    """How many tokens had been said, and of the next one the part of its time that had passed."""
    count = bisect_right(times, at)
    if 0 < count < len(times):
        return count + (at - times[count - 1]) / (times[count] - times[count - 1])
    return float(count)
