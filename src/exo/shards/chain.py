"""Tokens through all the shards of one model, and the next token back.

The first shard has the first layers and what surrounds all of them, so every way begins and ends there. A
long prompt goes in chunks: between two of them other requests have their turn, and while one chunk is in a
shard the next one is in the shard before it. Where the shards' processes can be linked to each other, a token
of an answer goes from one to the next, past the nodes they are on: that saves their event loops some wake-ups
a token, which cost most on a machine that has just slept.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Sequence

from exo.chat import Sampling
from exo.errors import ConnectionLost
from exo.shards.frames import Drawn, Rows
from exo.shards.process import RunningShard, ShardProcess

Tokens = tuple[int, ...]
CHUNK = 512
"""Tokens of a prompt that are read in one step."""


class Chain:
    """`rest` are the shards behind the first one, in order. Steps of several slots may be under way at once,
    and one of each."""

    def __init__(self, first: ShardProcess, rest: Sequence[RunningShard] = (), *, chunk: int = CHUNK) -> None:
        self._first, self._rest, self._chunk = first, tuple(rest), chunk
        self._linked = False

    def __repr__(self) -> str:
        return f"<Chain {' '.join(str(shard.span) for shard in self._all)}>"

    @property
    def _all(self) -> tuple[RunningShard, ...]:
        return (self._first, *self._rest)

    @property
    def alive(self) -> bool:
        return all(shard.alive for shard in self._all)

    async def link(self) -> None:
        """Links the shards' processes to each other, if all of them can be."""
        connections = []
        try:
            for shard in self._rest:
                if (connection := await shard.connect(self._first.give_up)) is None:
                    return
                connections.append(connection)
            while connections:
                await self._first.link(connections.pop(0))
            self._linked = bool(self._rest)
        finally:
            for connection in connections:
                connection.close()

    async def begin(
        self, slot: int, sampling: Sampling, *, form: str | None, logprobs: int | None, prompt: Tokens
    ) -> None:
        """A new answer in `slot`. Raises `BadRequest` for a form or a bias that cannot be."""
        await self._first.begin(slot, sampling, form=form, logprobs=logprobs, prompt=prompt)

    async def next(self, slot: int, position: int, tokens: Tokens) -> Drawn:
        """Reads `tokens` from `position` in `slot` on, and draws the one behind them."""
        # Of a shard that is lost the links may know nothing, and its connection does.
        if self._linked and len(tokens) <= self._chunk and all(shard.alive for shard in self._rest):
            try:
                return await self._first.next(slot, position, tokens)
            except ConnectionLost:
                self._linked = False
                # A shard that has died says what of.
                await self.free(slot)
                raise
        if self._rest:
            hidden = await self._through(slot, position, tokens)
            return await self._first.draw(slot, hidden)
        for at, chunk, last in self._chunks(position, tokens):
            if last:
                break
            await self._first.read(slot, at, chunk)
        return await self._first.next(slot, at, chunk)

    async def free(self, slot: int) -> None:
        """Lets go of the slot in all shards; returns when no step of it is under way in any."""
        await _all_of(shard.free(slot) for shard in self._all)

    async def stop(self) -> None:
        """Ends all shards, whatever they are doing. May be called again."""
        await _all_of(shard.stop() for shard in self._all)

    async def _through(self, slot: int, position: int, tokens: Tokens) -> bytes:
        """What the model's last layer gives for the last of `tokens`."""
        if len(tokens) <= self._chunk:  # the way of every token of an answer: no tasks
            hidden = await self._first.embed(slot, position, tokens)
            for shard in self._rest:
                rows: Rows = "last" if shard is self._rest[-1] else "all"
                hidden = await shard.forward(slot, position, hidden, rows=rows)
            return hidden
        return await self._pipelined(slot, position, tokens)

    async def _pipelined(self, slot: int, position: int, tokens: Tokens) -> bytes:
        """The same, chunk by chunk. Each shard has a task that hands on what it is given, in order."""
        chunks = list(self._chunks(position, tokens))
        ways: list[asyncio.Queue[bytes]] = [asyncio.Queue(1) for _ in self._all]

        async def embed() -> None:
            for at, chunk, _ in chunks:
                await ways[0].put(await self._first.embed(slot, at, chunk))

        async def forward(number: int, shard: RunningShard) -> None:
            for at, _, last in chunks:
                hidden = await ways[number].get()
                rows: Rows = "all"
                if shard is self._rest[-1]:
                    rows = "last" if last else "none"
                hidden = await shard.forward(slot, at, hidden, rows=rows)
                if rows != "none":
                    await ways[number + 1].put(hidden)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(embed())
                for number, shard in enumerate(self._rest):
                    group.create_task(forward(number, shard))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return ways[-1].get_nowait()

    def _chunks(self, position: int, tokens: Tokens) -> Iterator[tuple[int, Tokens, bool]]:
        """Where each begins, its tokens, and whether it is the last."""
        for start in range(0, len(tokens), self._chunk):
            end = start + self._chunk
            yield position + start, tokens[start:end], end >= len(tokens)


async def _all_of(calls: Iterable[Awaitable[None]]) -> None:
    """Waits for all of them, and raises what the first one that failed did."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
