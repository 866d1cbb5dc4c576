"""How a model begins every text, told alike by the engines; what holds for each is in `tests/contract`."""

import asyncio
import gc
import json
import shutil
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from exo.chat import ChatRequest, Message, Sampling
from exo.engine import SpellRequest, Tokenizer
from exo.engines.llamacpp import LlamaCppEngine, LlamaCppModel, start_server, tokenizer
from exo.errors import EngineFailed
from exo.shards.engine import LayersEngine
from exo.store.catalogue import BUNDLED, read_card
from tests.doubles import answer, finished
from tests.shards.conftest import NUMPY

DEMO = BUNDLED / "exo-demo"
_ADDS = b"tokenizer.ggml.add_bos_token" + struct.pack("<I", 7)  # a boolean in GGUF
_FIRST = b"tokenizer.ggml.bos_token_id" + struct.pack("<I", 4)  # an unsigned number


def beginning_with(text: str, id: int, folder: Path) -> None:
    """The bundled model as if it had been made to begin every text with a token."""
    shutil.copytree(DEMO, folder)
    data = (folder / "model.gguf").read_bytes()
    for key, old, new in (
        (_ADDS, b"\0", b"\1"),
        (_FIRST, struct.pack("<I", 503), struct.pack("<I", id)),
    ):
        assert data.count(key + old) == 1
        data = data.replace(key + old, key + new)
    (folder / "model.gguf").write_bytes(data)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"add_bos_token": True, "bos_token": text}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@asynccontextmanager
async def both(folder: Path) -> AsyncIterator[tuple[Tokenizer, Tokenizer]]:
    """The same model on two engines."""
    async with AsyncExitStack() as stack:
        found: list[Tokenizer] = []
        for engine, files in (
            (LlamaCppEngine(slots=1), folder / "model.gguf"),
            (LayersEngine("numpy", NUMPY, slots=1), folder),
        ):
            model = await engine.load(read_card("begun", files), files)
            stack.push_async_callback(model.unload)
            assert isinstance(model, Tokenizer)
            found.append(model)
        yield found[0], found[1]
    gc.collect()  # asyncio's transports of processes are unmade by the collector


@pytest.mark.parametrize(
    ("begin", "id", "chat_begins"),
    [("<|endoftext|>", 503, (503, 504, 266)), ("<|im_start|>", 504, (504, 266))],
    ids=["before what the template writes", "which the template writes itself"],
)
async def test_a_text_begins_as_it_does_for_an_answer(
    begin: str, id: int, chat_begins: tuple[int, ...], tmp_path: Path
) -> None:
    beginning_with(begin, id, tmp_path / "begun")
    once = Sampling(temperature=0, max_tokens=1)
    text = ChatRequest(model="begun", prompt="Count from", sampling=once)
    chat = ChatRequest(model="begun", messages=(Message("user", "Hi"),), sampling=once)
    async with both(tmp_path / "begun") as models:
        for model in models:
            told, read = await model.tokens(text), await model.tokens(chat)
            assert told[0] == id
            assert await model.tokens(text, begin=False) == told[1:]
            assert read[: len(chat_begins)] == chat_begins
            assert await model.tokens(chat, begin=False) == read
            assert await model.tokens(ChatRequest(model="begun", prompt="")) == (id,)
            assert await model.spell(SpellRequest(model="begun", tokens=(id,))) == (begin.encode(),)
            for asked, tokens in ((text, told), (chat, read)):
                end = finished(await answer(model, asked))  # type: ignore[arg-type]
                assert end.usage.prompt_tokens == len(tokens)
        one, other = models
        for asked in (text, chat):
            assert await one.tokens(asked) == await other.tokens(asked)


async def test_llamacpp_has_a_thread_for_them_that_answers_leave_free() -> None:
    files = DEMO / "model.gguf"
    model = await LlamaCppEngine(slots=2).load(read_card("demo", files), files)
    assert isinstance(model, LlamaCppModel)
    over = threading.Event()
    answers = [asyncio.create_task(model._threads.run(over.wait)) for _ in range(model.slots)]
    asyncio.get_running_loop().call_later(10, over.set)
    try:
        found = await asyncio.gather(
            *(model.tokens(ChatRequest(model="demo", prompt=letter)) for letter in "abcdefgh")
        )
        assert found == [(64 + number,) for number in range(8)]
        assert not over.is_set()
    finally:
        over.set()
        await asyncio.gather(*answers)
        await model.unload()


def test_llamacpps_port_is_closed_to_whoever_has_no_key() -> None:
    server = start_server(DEMO / "model.gguf", slots=1, context=64, threads=1, key="ours")
    assert tokenizer.tokens(server, "ours", "ab", begin=True) == tokenizer.tokens(
        server, "ours", "ab", begin=False
    )
    with pytest.raises(EngineFailed, match="Invalid API Key"):
        tokenizer.tokens(server, "theirs", "ab", begin=True)


def test_a_server_that_is_gone_is_a_failure_of_the_engine() -> None:
    class Gone:
        listening_address = "http://127.0.0.1:9"

    with pytest.raises(EngineFailed, match=r"does not tell its tokens: .*refused"):
        tokenizer.pieces(Gone(), "ours", (1,))
