"""What is put through the contract: one way to build each kind of responder."""

import gc
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from exo.cards import ModelCard, Share, Span
from exo.chat import ChatRequest, Message, Sampling, Text
from exo.engine import Responder
from exo.engines.llamacpp import LlamaCppEngine
from exo.engines.scripted import Script, ScriptedModel
from exo.http import openai_routes, token_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.remote import Remote
from exo.http.upstream import Upstream
from exo.metrics import Metrics
from exo.residency.residency import Limits, Residency
from exo.settings import HttpSettings, UpstreamSettings
from exo.shards.engine import LayersEngine, Split
from exo.shards.process import RunningShard
from exo.store.catalogue import BUNDLED, Catalogue
from tests.cluster.shard_nodes import NUMPY, SLOTS, ShardNode
from tests.doubles import SilentObserver, card, served
from tests.rkllama.npu import Board


@dataclass
class Ground:
    """What subjects are built on: a folder of their own, the stand-in runtimes, and model files for them."""

    folder: Path
    build: Path
    file_for: Callable[..., Path]


DEMO = BUNDLED / "exo-demo" / "model.gguf"
_WORDS = ["one ", "two ", "three ", "four ", "fünf ", "🙂 "] * 20


@dataclass
class Subject:
    """A responder, the requests at once it can make progress on, and a model it has."""

    responder: Responder
    slots: int
    model: str

    def request(self, question: str = "Count from 1 to 40.", **fields: object) -> ChatRequest:
        """A request with a greedy answer of more than 30 tokens and no reasoning in it."""
        asked = {"thinking": False, "sampling": Sampling(temperature=0, max_tokens=80), **fields}
        if self.model == "counting":
            del asked["thinking"]
        return msgspec.structs.replace(
            ChatRequest(model=self.model, messages=(Message("user", question),)), **asked
        )


def counting() -> Script:
    return Script(steps=tuple(Text(word) for word in _WORDS), slots=2)


@asynccontextmanager
async def scripted(ground: Ground) -> AsyncIterator[Subject]:
    yield Subject(ScriptedModel(counting()), slots=2, model="counting")


@asynccontextmanager
async def llamacpp(ground: Ground) -> AsyncIterator[Subject]:
    card = Catalogue(BUNDLED)["exo-demo"][0]
    model = await LlamaCppEngine(slots=3).load(card, DEMO)
    try:
        yield Subject(model, slots=3, model="exo-demo")
    finally:
        await model.unload()


@asynccontextmanager
async def residency(ground: Ground) -> AsyncIterator[Subject]:
    shelf = Catalogue(BUNDLED)
    here = Residency([LlamaCppEngine(slots=2)], shelf, Limits(memory=1 << 30), SilentObserver())
    try:
        yield Subject(here, slots=2, model="exo-demo")
    finally:
        await here.close()


@asynccontextmanager
async def remote(ground: Ground) -> AsyncIterator[Subject]:
    """The whole way: client, HTTP, dialect, residency, engine, and back."""
    async with _server(ground) as url:
        client = Remote(url)
        try:
            yield Subject(client, slots=2, model="exo-demo")
        finally:
            await client.close()


@asynccontextmanager
async def upstream(ground: Ground) -> AsyncIterator[Subject]:
    """The same way, as part of another node."""
    async with _server(ground) as url:
        server = Upstream(UpstreamSettings(kind="openai", url=url), silence=60.0)
        await server.refresh()
        try:
            yield Subject(server, slots=2, model="exo-demo")
        finally:
            await server.close()


@asynccontextmanager
async def _server(ground: Ground) -> AsyncIterator[str]:
    """A node with the bundled model; its address."""
    async with residency(ground) as behind:
        desk = Desk(
            served(behind.responder, card(behind.model)),
            Metrics("0", ("llamacpp",)),
            HttpSettings(),
            lambda: None,
        )
        async with TestServer(
            build(desk, openai_routes.routes(), token_routes.routes()), handler_cancellation=True
        ) as server:
            yield str(server.make_url("")).rstrip("/")


def npu(release: str) -> Callable[[Ground], AbstractAsyncContextManager[Subject]]:
    """The NPU server's engine, over the stand-in of a release."""

    @asynccontextmanager
    async def on_board(ground: Ground) -> AsyncIterator[Subject]:
        board = Board(ground.folder, ground.build, ground.file_for, release)
        board.put()
        engine = board.engine()
        here = Residency([engine], board.models, Limits(memory=1 << 30), SilentObserver())
        try:
            yield Subject(here, slots=1, model="demo")
        finally:
            await here.close()
            # asyncio's transports of processes are unmade by the collector, and warn where a loop is gone.
            gc.collect()

    return on_board


def layers(name: str, module: str) -> Callable[[Ground], AbstractAsyncContextManager[Subject]]:
    """An engine of layers, whole in one process."""

    @asynccontextmanager
    async def in_a_process(ground: Ground) -> AsyncIterator[Subject]:
        with pytest.MonkeyPatch.context() as patched:
            # Where tinygrad keeps what it has compiled: not among what the developer's own models need.
            patched.setenv("CACHEDB", str(ground.build / "tinygrad.db"))
            async with _layered(LayersEngine(name, module, slots=3)) as subject:
                yield subject

    return in_a_process


@asynccontextmanager
async def split(ground: Ground) -> AsyncIterator[Subject]:
    """One in three processes."""

    async def plan(card: ModelCard, folder: Path) -> Split:
        async def open_rest() -> Sequence[RunningShard]:
            engine = LayersEngine("numpy", NUMPY)
            return [
                await engine.open(folder, span, ends=False, slots=3, context=card.context)
                for span in (Span(2, 3), Span(3, 6))
            ]

        return Split(Span(0, 2), open_rest)

    async with _layered(LayersEngine("numpy", NUMPY, slots=3, plan=plan)) as subject:
        yield subject


@asynccontextmanager
async def sharded(ground: Ground) -> AsyncIterator[Subject]:
    """One whose second half is on another node, behind that one's HTTP server."""
    here = ShardNode("here", split=(Share("here", Span(0, 3)), Share("there", Span(3, 6))))
    there = ShardNode("there")
    here.peers, there.peers = [there], [here]
    try:
        for node in (here, there):
            await node.start()
        yield Subject(here.here, slots=SLOTS, model="exo-demo")
        assert there.held, "nothing was computed there"
    finally:
        for node in (here, there):
            await node.stop()
        gc.collect()  # see on_board


@asynccontextmanager
async def _layered(engine: LayersEngine) -> AsyncIterator[Subject]:
    card = Catalogue(BUNDLED, formats=("safetensors",))["exo-demo"][0]
    model = await engine.load(card, DEMO.parent)
    try:
        yield Subject(model, slots=3, model="exo-demo")
    finally:
        await model.unload()
        gc.collect()  # see on_board


SUBJECTS: Mapping[str, Callable[[Ground], AbstractAsyncContextManager[Subject]]] = {
    "scripted": scripted,
    "llamacpp": llamacpp,
    "mlx": layers("mlx", "exo.engines.mlx"),
    "tinygrad": layers("tinygrad", "exo.engines.tinygrad"),
    "layers": layers("numpy", NUMPY),
    "split": split,
    "sharded": sharded,
    "residency": residency,
    "remote": remote,
    "npu-1.2.3": npu("1.2.3"),
    "npu-1.3.0": npu("1.3.0"),
    "upstream": upstream,
}
