"""What is put through the contract: one way to build each kind of responder."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, Message, Sampling, Text
from exo.engine import Responder
from exo.engines.llamacpp import LlamaCppEngine
from exo.engines.scripted import Script, ScriptedModel
from exo.http import openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.remote import Remote
from exo.metrics import Metrics
from exo.residency import Limits, Residency
from exo.settings import HttpSettings
from exo.store.catalogue import BUNDLED, Catalogue
from tests.doubles import SilentObserver, card, served

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
async def scripted(folder: Path) -> AsyncIterator[Subject]:
    yield Subject(ScriptedModel(counting()), slots=2, model="counting")


@asynccontextmanager
async def llamacpp(folder: Path) -> AsyncIterator[Subject]:
    card = Catalogue(BUNDLED)["exo-demo"][0]
    model = await LlamaCppEngine(slots=3).load(card, DEMO)
    try:
        yield Subject(model, slots=3, model="exo-demo")
    finally:
        await model.unload()


@asynccontextmanager
async def residency(folder: Path) -> AsyncIterator[Subject]:
    shelf = Catalogue(BUNDLED)
    here = Residency([LlamaCppEngine(slots=2)], shelf, Limits(memory=1 << 30), SilentObserver())
    try:
        yield Subject(here, slots=2, model="exo-demo")
    finally:
        await here.close()


@asynccontextmanager
async def remote(folder: Path) -> AsyncIterator[Subject]:
    """The whole way: client, HTTP, dialect, residency, engine, and back."""
    async with residency(folder) as behind:
        desk = Desk(
            served(behind.responder, card(behind.model)),
            Metrics("0", ("llamacpp",)),
            HttpSettings(),
            lambda: None,
        )
        async with TestServer(build(desk, openai_routes.routes()), handler_cancellation=True) as server:
            client = Remote(str(server.make_url("")))
            try:
                yield Subject(client, slots=2, model="exo-demo")
            finally:
                await client.close()


SUBJECTS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "scripted": scripted,
    "llamacpp": llamacpp,
    "residency": residency,
    "remote": remote,
}
