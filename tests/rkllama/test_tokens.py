"""Tokens of a model on the NPU, which are those of the tokenizer.json beside it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from exo.chat import ChatRequest
from exo.engine import SpellRequest, Tokenizer, spelled
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import BadRequest
from exo.store.catalogue import BUNDLED, Catalogue
from rkllama.engine import RkllmModel
from tests.rkllama.npu import Board, request

Load = Callable[..., Awaitable[RkllmModel]]


@pytest.fixture
async def load(tmp_path: Path, build: Path, file_for: Callable[..., Path]) -> AsyncIterator[Load]:
    loaded: list[RkllmModel] = []

    async def load_one(*, standin: dict[str, str] | None = None, **keys: object) -> RkllmModel:
        board = Board(tmp_path, build, file_for)
        board.put(**keys)  # type: ignore[arg-type]
        model = await board.engine(**(standin or {})).load(*board.models["demo"])
        assert isinstance(model, RkllmModel)
        loaded.append(model)
        return model

    yield load_one
    for model in loaded:
        await model.unload()
    gc.collect()


async def test_they_are_those_of_the_cpu(load: Load) -> None:
    npu = await load()
    cpu = await LlamaCppEngine(slots=1).load(*Catalogue(BUNDLED)["exo-demo"])
    assert isinstance(cpu, Tokenizer)
    try:
        for asked in (request("Hi, fünf 🙂!"), request("What is 12 + 7?", thinking=True)):
            tokens = await npu.tokens(asked)
            assert tokens == await cpu.tokens(asked)
            asked_back = SpellRequest(model="demo", tokens=tokens)
            assert spelled(await npu.spell(asked_back)) == spelled(await cpu.spell(asked_back))
    finally:
        await cpu.unload()


async def test_without_the_tokenizer_the_remedy_is_told(load: Load) -> None:
    model = await load(beside=["tokenizer_config.json", "chat_template.jinja"])
    for asking in (
        model.tokens(ChatRequest(model="demo", prompt="hi")),
        model.spell(SpellRequest(model="demo", tokens=(1,))),
    ):
        with pytest.raises(BadRequest, match=r"put the tokenizer.json of 'demo' into .*/demo") as refused:
            await asking
        assert refused.value.param == "model"


async def test_they_are_told_while_the_npu_answers(load: Load) -> None:
    model = await load(standin={"STANDIN_TOKEN_MS": "200"})
    async with aclosing(model.respond(request("Count from 1 to 40."))) as deltas:
        await anext(deltas)
        async with asyncio.timeout(10):  # the answer takes longer
            assert await model.tokens(ChatRequest(model="demo", prompt="a")) == (64,)
