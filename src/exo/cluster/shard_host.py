"""Layers of this node's models for other nodes: the serving side of a model in parts."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from exo.cards import Progress as ModelProgress
from exo.cards import Span
from exo.choice.partition import Plan
from exo.cluster.planning import Planner, needs
from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotReady
from exo.http.shard_stream import BEAT, SILENCE
from exo.nodes import Kind
from exo.residency.residency import Residency
from exo.shards.engine import LayersEngine
from exo.shards.process import ShardProcess
from exo.store import checkpoint
from exo.wire import shards as wire
from exo.wire.shards import OpenShard

# Seconds after which a node that is lost is known to be, and its layers are gone.
_NOTICED = SILENCE + 2 * BEAT
# Seconds without a step after which no answer is under way, but for one whose client does not read. That one
# is gone on with elsewhere.
_UNUSED = 1.0


class _Held:
    """Layers in memory, or on their way there."""

    def __init__(self) -> None:
        self.shard: ShardProcess | None = None
        self.gone = asyncio.Event()


class ShardHost:
    """An `http.shard_routes.Host`, on a machine of this `kind`. `engines` are by name, best first."""

    def __init__(
        self,
        planner: Planner,
        residency: Residency,
        engines: Mapping[str, LayersEngine],
        fetch: Callable[[str, Span], AsyncGenerator[ModelProgress, None]],
        *,
        kind: Kind,
    ) -> None:
        self._planner, self._residency, self._engines = planner, residency, engines
        self._fetch, self._kind = fetch, kind
        self._held: dict[tuple[str, str], _Held] = {}  # by model and the node it is for

    async def plan(self, model: str, split: str = "") -> Plan:
        return await self._planner.plan(model, split)

    @asynccontextmanager
    async def shard(
        self, open: OpenShard, via: str, progress: Callable[[float], None]
    ) -> AsyncIterator[ShardProcess]:
        """Raises `ModelNotFound` for a model of which nothing is here, `BadRequest` for layers it has not,
        `NotReady` where what is in use leaves no room, and `EngineFailed` as loading does."""
        folder = await self._folder(open, progress)
        config = await asyncio.to_thread(checkpoint.read, folder)
        wire.check(open, config.layers)
        if open.context > config.context:
            raise BadRequest(
                f"'{open.model}' has a context of {config.context} tokens, not {open.context}",
                param="context",
            )
        dtype = self._planner.dtype if open.dtype == "auto" else open.dtype
        engine = self._engine(open.engine)
        memory = await asyncio.to_thread(
            needs, folder, open.span, self._kind, slots=open.slots, context=open.context, dtype=dtype
        )
        name = f"{open.model} (layers {open.span} for {via})"
        async with self._only_one(open.model, via) as held, self._room(open.model, via, name, memory):
            shard = held.shard = await engine.open(
                folder,
                open.span,
                ends=False,
                slots=open.slots,
                context=open.context,
                dtype=dtype,
                progress=progress,
            )
            try:
                yield shard
            finally:
                await shard.stop()

    async def _folder(self, open: OpenShard, progress: Callable[[float], None]) -> Path:
        """Where these layers are on this disk; they are downloaded if that is what it takes."""
        folder = self._planner.folder(open.model)
        if folder is None or await asyncio.to_thread(checkpoint.lacks, folder, open.span):
            try:
                async with aclosing(self._fetch(open.model, open.span)) as steps:
                    async for step in steps:
                        progress(step.done / max(step.total, step.done, 1))
            except BadRequest as error:
                what = "" if folder is None else f"layers {open.span} of "
                raise ModelNotFound(
                    f"{what}'{open.model}' is not here, and cannot be downloaded: {error.message}",
                    param="model",
                ) from error
            folder = self._planner.folder(open.model)
        if folder is None:
            raise ModelNotFound(
                f"there is no safetensors model '{open.model}' here to work with layers of", param="model"
            )
        return folder

    @asynccontextmanager
    async def _only_one(self, model: str, via: str) -> AsyncIterator[_Held]:
        """A node that opens a model's layers anew has lost those it had, though that may not have been
        noticed here yet: they make room first."""
        if before := self._held.get((model, via)):
            await self._end(before)
        held = self._held[model, via] = _Held()
        try:
            yield held
        finally:
            held.gone.set()
            if self._held[model, via] is held:
                del self._held[model, via]

    @asynccontextmanager
    async def _room(self, model: str, via: str, name: str, memory: int) -> AsyncIterator[None]:
        """Memory for the body, and if need be that of what another node has had of the model before: a model
        is split by one node at a time, and the last one to lead keeps its parts until it is idle for long."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._residency.hold(name, memory))
            except NotReady:
                if not await self._given_up(model, via):
                    raise
                await stack.enter_async_context(self._residency.hold(name, memory))
            yield

    async def _given_up(self, model: str, via: str) -> bool:
        """Ends the model's layers that other nodes do not use. Whether there were any."""
        theirs = [held for (each, node), held in self._held.items() if each == model and node != via]
        unused = [held for held in theirs if held.shard and await held.shard.idle() > _UNUSED]
        for held in unused:
            await self._end(held)
        return bool(unused)

    async def _end(self, held: _Held) -> None:
        if held.shard:
            await held.shard.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NOTICED):
                await held.gone.wait()

    def _engine(self, liked: str | None) -> LayersEngine:
        """The one liked best, or else the first one that runs here."""
        reasons = []
        for name in sorted(self._engines, key=lambda name: name != liked):
            why = self._engines[name].unavailable()
            if why is None:
                return self._engines[name]
            reasons.append(f"{name}: {why}")
        raise EngineFailed(f"no engine of layers runs here: {'; '.join(reasons) or 'none is enabled'}")
