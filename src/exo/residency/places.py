"""What the residency keeps of each model in memory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from exo.cards import ModelCard
from exo.chat import Trace
from exo.engine import LoadedModel
from exo.residency.schedule import Resident, State
from exo.traces import Traces, Value


class Loading(NamedTuple):
    """How a model came into memory; times are in nanoseconds since the epoch."""

    card: ModelCard
    began: int
    ended: int


class Place:
    """A model's place in memory, mutable; `snapshot` is what `plan` sees of it."""

    def __init__(self, memory: int, idle_seconds: float | None) -> None:
        self.memory = memory
        self.idle_seconds = idle_seconds
        self.state: State = "loading"
        self.model: LoadedModel | None = None
        self.running = 0
        self.used = 0
        self.loading: Loading | None = None
        self.idle_since = 0.0
        self.gone = asyncio.Event()
        self._readers = 0
        self._unread = asyncio.Event()
        self._unread.set()

    @property
    def slots(self) -> int:
        return self.model.slots if self.model else self.running

    @property
    def idle(self) -> bool:
        return self.state == "ready" and self.running == 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Marks that something is looked up in the model. That takes none of its slots, and may go on when
        the model is to leave: whoever unloads it waits for `unread` first."""
        self._readers += 1
        self._unread.clear()
        try:
            yield
        finally:
            self._readers -= 1
            self.idle_since = asyncio.get_running_loop().time()
            if not self._readers:
                self._unread.set()

    async def unread(self) -> None:
        """Returns once nobody looks anything up in it."""
        await self._unread.wait()

    def record_loading(self, traces: Traces, above: Trace, since: int) -> None:
        """Puts into a trace what of the model's loading was after `since`: one loading is for all who wait
        for it, and each has it in his own."""
        if not traces.recording or self.loading is None or self.loading.ended <= since:
            return
        card, began, ended = self.loading
        about: dict[str, Value] = {"gen_ai.request.model": card.id, "exo.format": card.format}
        if card.split:
            about["exo.shards"] = len(card.split)
        traces.begin("load", "internal", above, about, began=max(began, since)).end(at=ended)

    def leaves_at(self) -> float | None:
        """When it has been idle too long; None while it is busy, or may stay for ever."""
        if not self.idle or self.idle_seconds is None:
            return None
        return self.idle_since + self.idle_seconds

    def snapshot(self) -> Resident:
        now = asyncio.get_running_loop().time()
        left = None if (end := self.leaves_at()) is None else end - now
        idle = now - self.idle_since if self.idle else None
        return Resident(self.memory, self.state, self.slots, self.running, self.used, left, idle)
