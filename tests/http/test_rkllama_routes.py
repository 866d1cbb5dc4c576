"""The original NPU server's routes over a real node, as its clients use them."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from exo.cards import Progress
from exo.chat import Finished, Reasoning, Text, Usage
from exo.engines.scripted import Fail, Script, ScriptedEngine, Wait
from exo.errors import EngineFailed, ExoError, NotFound, NotReady
from exo.http import openai_routes, rkllama_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.node.local import LocalNode
from exo.nodes import Device
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults, HttpSettings
from exo.store.catalogue import Catalogue
from tests.doubles import SilentObserver

HELLO = {"messages": [{"role": "user", "content": "Hello there"}]}
END = Finished("stop", Usage(5, 2))


class Shelf(Catalogue):
    """Models on a disk to which downloads come as the test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.steps: list[Progress | ExoError] = []
        self.pulled: list[str] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        self.pulled.append(name)
        for step in self.steps:
            if isinstance(step, ExoError):
                raise step
            yield step
            await self.goes_on.wait()


class Server(TestClient[Any, Any]):
    """A server of the dialect, with the scripts it was given as models, and a client to it."""

    shelf: Shelf
    desk: Desk

    async def load(self, model: str) -> None:
        assert (await self.post("/load_model", json={"model_name": model})).status == 200

    async def current(self) -> str | None:
        answer = await self.get("/current_model")
        said = await answer.json()
        return said["model_name"] if answer.status == 200 else None

    async def generate(self, **body: Any) -> ClientResponse:
        return await self.post("/generate", json={**HELLO, **body})


@asynccontextmanager
async def serving(
    folder: Path, settings: HttpSettings | None = None, **models: Script
) -> AsyncIterator[Server]:
    for name, script in models.items():
        (folder / f"{name}.script.json").write_bytes(msgspec.json.encode(script))
    shelf = Shelf(folder)
    residency = Residency([ScriptedEngine()], shelf, Limits(memory=1 << 30), SilentObserver())
    node = LocalNode(
        id="test",
        url="",
        version="9.9",
        device=Device(name="test", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(),
    )
    desk = Desk(node, Metrics("0", ()), settings or HttpSettings(), lambda: None)
    app = build(desk, openai_routes.routes(("/v1",)), rkllama_routes.routes())
    async with Server(TestServer(app, handler_cancellation=True)) as server:
        server.shelf, server.desk = shelf, desk
        yield server
    await residency.close()


def script(*words: str) -> Script:
    return Script(steps=(*map(Text, words), Finished("stop", Usage(2, len(words)))))


async def error_of(answer: ClientResponse) -> str:
    """The message of a failure, which is all there is in its body."""
    said = await answer.json()
    assert list(said) == ["error"]
    assert isinstance(said["error"], str)
    return str(said["error"])


async def objects_of(answer: ClientResponse) -> list[dict[str, Any]]:
    *objects, rest = (await answer.text()).split("\n\n")
    assert rest == ""
    return [json.loads(each) for each in objects]


async def test_the_root_names_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert await (await server.get("/")).json() == {"name": "rkllama", "version": "9.9"}


async def test_models_are_names(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("x"), b=script("x")) as server:
        assert await (await server.get("/models")).json() == {"models": ["a", "b"]}


async def test_openais_dialect_keeps_its_own_place(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("x")) as server:
        assert (await (await server.get("/v1/models")).json())["data"][0]["id"] == "a"
        missing = await server.get("/v1/models/b")
        assert (await missing.json())["error"]["code"] == "model_not_found"
        assert (await server.post("/chat/completions", json={})).status == 404


async def test_nothing_is_loaded_at_first(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("x")) as server:
        current = await server.get("/current_model")
        assert current.status == 404
        assert "No models are currently loaded" in await error_of(current)
        for answer in (await server.generate(), await server.generate(stream=True)):
            assert answer.status == 400
            assert "POST /load_model" in await error_of(answer)
        unloaded = await server.post("/unload_model")
        assert unloaded.status == 400
        assert "No models are currently loaded" in await error_of(unloaded)


async def test_a_loaded_model_is_the_current_one_until_it_is_unloaded(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("x")) as server:
        loaded = await server.post("/load_model", json={"model_name": "a"})
        assert await loaded.json() == {"message": "Model a loaded successfully."}
        assert await server.current() == "a"
        unloaded = await server.post("/unload_model")
        assert await unloaded.json() == {"message": "Model successfully unloaded!"}
        assert await server.current() is None


async def test_of_several_the_one_used_last_is_current(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("from a"), b=script("from b")) as server:
        await server.load("a")
        await server.load("b")
        assert (await (await server.generate()).json())["choices"][0]["content"] == "from b"
        await server.load("a")
        assert (await (await server.generate()).json())["choices"][0]["content"] == "from a"
        await server.post("/v1/chat/completions", json={**HELLO, "model": "b"})
        assert await server.current() == "b"
        await server.post("/unload_model", json={"model_name": "b"})
        assert await server.current() == "a"


async def test_unloading_what_is_not_loaded_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("x"), b=script("x")) as server:
        await server.load("a")
        refused = await server.post("/unload_model", json={"model_name": "b"})
        assert refused.status == 400
        assert "'b' is not loaded" in await error_of(refused)
        assert await server.current() == "a"


async def test_loading_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    async with serving(tmp_path, mini=script("x")) as server:
        refused = await server.post("/load_model", json={"model_name": "mimi"})
        assert refused.status == 404
        assert "did you mean mini?" in await error_of(refused)


async def test_a_description_does_not_make_a_model(tmp_path: Path) -> None:
    described = {"from": "m.rkllm", "huggingface_path": "user/repository"}
    async with serving(tmp_path, a=script("x")) as server:
        refused = await server.post("/load_model", json={"model_name": "new", **described})
        assert refused.status == 404
        assert "put a Modelfile" in await error_of(refused)
        known = await server.post("/load_model", json={"model_name": "a", **described})
        assert known.status == 200


async def test_an_answer_comes_whole(tmp_path: Path) -> None:
    async with serving(tmp_path, a=Script(steps=(Reasoning("Hm."), Text("Hello"), END))) as server:
        await server.load("a")
        answer = await server.generate()
        assert answer.content_type == "application/json"
        said = await answer.json()
        assert said["choices"] == [
            {
                "role": "assistant",
                "content": "<think>Hm.</think>Hello",
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert said["usage"].pop("tokens_per_second") > 0
        assert said["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


async def test_an_answer_comes_streamed(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("Hel", "lo", "!")) as server:
        await server.load("a")
        answer = await server.generate(stream=True)
        assert answer.content_type == "text/plain"
        objects = await objects_of(answer)
        assert [each["choices"][0]["content"] for each in objects] == ["Hel", "lo", "!", ""]
        assert [each["choices"][0]["finish_reason"] for each in objects] == [None, None, None, "stop"]
        assert objects[-1]["usage"]["total_tokens"] == 5


async def test_what_a_request_asks_is_done(tmp_path: Path) -> None:
    async with serving(tmp_path, a=Script(steps=tuple(map(Text, ["one", "two", "three"])))) as server:
        await server.load("a")
        said = await (await server.generate(messages="Hi", max_new_tokens=2)).json()
        assert said["choices"][0]["content"] == "onetwo"
        assert said["choices"][0]["finish_reason"] == "length"
        said = await (await server.generate(stop="etw")).json()
        assert said["choices"][0]["content"] == "on"
        refused = await server.generate(nonsense=1)
        assert refused.status == 400
        assert 'unknown parameter "nonsense"' in await error_of(refused)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_answer_is_a_status(tmp_path: Path, stream: bool) -> None:
    async with serving(tmp_path, a=Script(steps=(Fail("no NPU", "not_ready"),))) as server:
        await server.load("a")
        failed = await server.generate(stream=stream)
        assert failed.status == 503
        assert await error_of(failed) == "no NPU"


async def test_a_failure_in_the_middle_is_no_end(tmp_path: Path) -> None:
    async with serving(tmp_path, a=Script(steps=(Text("Hel"), Wait(0.01), Fail("no NPU")))) as server:
        await server.load("a")
        *objects, last = await objects_of(await server.generate(stream=True))
        assert last == {"error": "no NPU"}
        assert not any(each["choices"][0]["finish_reason"] for each in objects)


async def test_a_model_goes_off_the_disk(tmp_path: Path) -> None:
    async with serving(tmp_path, a=script("x")) as server:
        await server.load("a")
        deleted = await server.delete("/rm", json={"model": "a"})
        assert await deleted.json() == {"message": "The model has been successfully deleted!"}
        assert await (await server.get("/models")).json() == {"models": []}
        assert os.listdir(tmp_path) == []
        assert (await server.delete("/rm", json={"model": "a"})).status == 404
        assert (await server.delete("/rm", json={"model": "../a"})).status == 404


async def test_a_download_is_lines_of_percent(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.shelf.steps = [Progress("f", done, 2000) for done in (0, 1, 700, 701, 1999, 2000)]
        answer = await server.post("/pull", json={"model": "user/repository/f"})
        assert answer.content_type == "text/plain"
        assert await answer.text() == "0%\n35%\n99%\n100%\n"
        assert server.shelf.pulled == ["user/repository/f"]


async def test_a_download_of_unknown_size_is_done_in_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.shelf.steps = [Progress("f", done, 0) for done in (0, 1, 2)]
        assert await (await server.post("/pull", json={"model": "u/r/f"})).text() == "0%\n100%\n"


async def test_a_download_that_fails_at_once_is_a_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.shelf.steps = [NotFound("no such file")]
        failed = await server.post("/pull", json={"model": "u/r/f"})
        assert failed.status == 404
        assert await error_of(failed) == "no such file"


async def test_a_download_that_fails_later_is_never_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.shelf.steps = [Progress("f", 5, 10), NotReady("the hub\nis gone")]
        answer = await server.post("/pull", json={"model": "u/r/f"})
        assert await answer.text() == "50%\nError: the hub is gone\n"


async def test_a_download_that_is_no_good_in_the_end_is_never_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.shelf.steps = [Progress("f", 10, 10), EngineFailed("wrong checksum")]
        answer = await server.post("/pull", json={"model": "u/r/f"})
        assert await answer.text() == "99%\nError: wrong checksum\n"


async def test_a_shutdown_does_not_wait_for_a_download(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.shelf.steps = [Progress("f", 5, 10), Progress("f", 10, 10)]
        server.shelf.goes_on.clear()
        answer = await server.post("/pull", json={"model": "u/r/f"})
        assert await answer.content.readline() == b"50%\n"
        server.desk.abandon()
        assert await answer.text() == "Error: this node is shutting down\n"


async def test_whoever_does_not_own_the_machine_changes_nothing(tmp_path: Path) -> None:
    elsewhere = {"X-Forwarded-For": "10.0.0.9"}
    async with serving(tmp_path, a=script("x")) as server:
        for verb, path, body in [
            ("POST", "/load_model", {"model_name": "a"}),
            ("POST", "/unload_model", {}),
            ("POST", "/pull", {"model": "u/r/f"}),
            ("DELETE", "/rm", {"model": "a"}),
        ]:
            refused = await server.request(verb, path, json=body, headers=elsewhere)
            assert refused.status == 403
            assert "EXO_API_KEY" in await error_of(refused)
        assert server.shelf.pulled == []
        assert (await server.get("/models", headers=elsewhere)).status == 200


async def test_without_the_key_there_is_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, HttpSettings(key="secret"), a=script("x")) as server:
        refused = await server.get("/models")
        assert refused.status == 401
        assert "key" in await error_of(refused)
        key = {"Authorization": "Bearer secret"}
        assert (await server.get("/models", headers=key)).status == 200


async def test_the_wrong_verb_is_told_the_right_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        refused = await server.get("/generate")
        assert refused.status == 405
        assert "/generate takes POST, not GET" in await error_of(refused)
