"""Shards in processes of their own, none of which outlives its test."""

import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from exo.cards import Span
from exo.shards.frames import Open
from exo.shards.process import ShardProcess
from exo.store.catalogue import BUNDLED

NUMPY, TROUBLED = "tests.engines.numpy_shard", "tests.shards.troubled"
FOLDER = BUNDLED / "exo-demo"
LAYERS, CONTEXT, VOCABULARY = 6, 2048, 512

Start = Callable[..., Coroutine[Any, Any, ShardProcess]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[ShardProcess] = []

    async def start_one(
        first: int = 0,
        end: int = LAYERS,
        *,
        engine: str = NUMPY,
        folder: Path = FOLDER,
        slots: int = 2,
        progress: Callable[[float], None] = lambda done: None,
    ) -> ShardProcess:
        shard = await ShardProcess.start(
            Open(
                engine=engine,
                folder=folder,
                span=Span(first, end),
                ends=first == 0,
                slots=slots,
                context=CONTEXT,
                vocabulary=VOCABULARY,
            ),
            progress=progress,
        )
        started.append(shard)
        return shard

    yield start_one
    for shard in started:
        await shard.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(shard.pid, 0)
    # asyncio's transports of processes are unmade by the collector, and warn where a loop is gone.
    gc.collect()
