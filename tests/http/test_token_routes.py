"""The routes of tokens, over the bundled model and over servers of other makers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from exo.chat import ChatRequest, Text
from exo.engine import SpellRequest
from exo.engines.llamacpp import LlamaCppEngine
from exo.engines.scripted import Script, ScriptedModel
from exo.errors import BadRequest, ModelNotFound
from exo.http import openai_routes, token_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.headers import HOP_HEADER
from exo.http.remote import Remote
from exo.http.upstream import Upstream
from exo.metrics import Metrics
from exo.node.local import LocalNode
from exo.nodes import Device
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults, HttpSettings, UpstreamSettings
from exo.store.catalogue import BUNDLED, Catalogue
from tests.doubles import SilentObserver, card, served

Client: TypeAlias = TestClient[web.Request, web.Application]

HI = [{"role": "user", "content": "Hi"}]
PROMPT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@asynccontextmanager
async def bundled(*upstreams: Upstream, **defaults: Any) -> AsyncIterator[Client]:
    """A node with the bundled model, and what these servers have."""
    shelf = Catalogue(BUNDLED)
    residency = Residency([LlamaCppEngine(slots=1)], shelf, Limits(memory=1 << 30), SilentObserver())
    node = LocalNode(
        id="test",
        url="",
        version="0",
        device=Device(name="test", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(**defaults),
        upstreams=upstreams,
    )
    desk = Desk(node, Metrics("0", ()), HttpSettings(keepalive=0.05), lambda: None)
    app = build(desk, openai_routes.routes(), token_routes.routes())
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        yield client
    await residency.close()


async def post(client: Client, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    async with client.post(path, json=body) as answer:
        said: dict[str, Any] = await answer.json()
        assert answer.status == status, said
        return said


@pytest.mark.parametrize("path", ["/v1/chat/token/encode", "/chat/token/encode"])
async def test_a_conversation_as_the_first_exo_encoded_it(path: str) -> None:
    async with bundled() as client:
        said = await post(client, path, model="exo-demo", messages=HI)
        assert set(said) == {"length", "num_tokens", "encoded_tokens", "encoded_prompt"}
        assert said["encoded_prompt"].startswith(PROMPT)
        assert said["length"] == len(said["encoded_prompt"])
        assert said["num_tokens"] == len(said["encoded_tokens"])
        chat = await post(client, "/v1/chat/completions", model="exo-demo", messages=HI, max_tokens=1)
        assert chat["usage"]["prompt_tokens"] == said["num_tokens"]


async def test_a_text_and_back_as_llamacpp_has_it() -> None:
    async with bundled() as client:
        said = await post(client, "/tokenize", model="exo-demo", content=PROMPT, add_special=True)
        assert said["tokens"][0] == 504
        assert (said["count"], said["model"]) == (len(said["tokens"]), "exo-demo")
        back = await post(client, "/detokenize", model="exo-demo", tokens=said["tokens"])
        assert back == {"model": "exo-demo", "content": PROMPT, "prompt": PROMPT}


async def test_pieces_are_llamacpps_own() -> None:
    async with bundled() as client:
        said = await post(client, "/tokenize", model="exo-demo", content="a🙂", with_pieces=True)
        assert said["tokens"][0] == {"id": 64, "piece": "a"}
        assert bytes(byte for token in said["tokens"][1:] for byte in token["piece"]) == "🙂".encode()


async def test_a_conversation_as_vllm_has_it() -> None:
    async with bundled() as client:
        said = await post(client, "/tokenize", model="exo-demo", messages=HI, return_token_strs=True)
        assert "".join(said["token_strs"]).startswith(PROMPT)
        assert said["max_model_len"] == Catalogue(BUNDLED)["exo-demo"][0].context
        whole = await post(client, "/v1/chat/token/encode", model="exo-demo", messages=HI)
        assert said["tokens"] == whole["encoded_tokens"]
        text = await post(client, "/tokenize", model="exo-demo", prompt=whole["encoded_prompt"])
        assert text["tokens"] == said["tokens"]


async def test_what_the_owner_has_set_is_counted_as_the_model_reads_it() -> None:
    async with bundled(model="exo-demo", system_prompt="Be brief.") as client:
        said = await post(client, "/v1/chat/token/encode", messages=HI)
        assert said["encoded_prompt"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
        assert (await post(client, "/tokenize", content="a"))["tokens"] == [64]
        assert (await post(client, "/detokenize", tokens=[64]))["content"] == "a"


async def test_what_is_wrong_is_told_in_the_usual_shape() -> None:
    async with bundled() as client:
        beyond = await post(client, "/detokenize", 400, model="exo-demo", tokens=[1, 512])
        assert beyond["error"]["param"] == "tokens[1]"
        assert "token 512 is not in the vocabulary of 'exo-demo', which has 512" in beyond["error"]["message"]
        right: dict[str, dict[str, Any]] = {
            "/tokenize": {"content": "a"},
            "/detokenize": {"tokens": []},
            "/chat/token/encode": {"messages": HI},
        }
        for path, body in right.items():
            (key,) = body
            assert (await post(client, path, 400, model="exo-demo"))["error"]["param"] == key
            said = await post(client, path, 404, model="nothing", **body)
            assert said["error"]["code"] == "model_not_found"


class Slow(ScriptedModel):
    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        await asyncio.sleep(0.3)
        if request.prompt == "broken":
            raise BadRequest("no", param="prompt")
        return await super().tokens(request, begin=begin)


@pytest.fixture
async def slow() -> AsyncIterator[str]:
    model = Slow(Script(steps=(Text("x"),)))
    desk = Desk(served(model, card("m")), Metrics("0", ()), HttpSettings(keepalive=0.05), lambda: None)
    async with TestServer(build(desk, token_routes.routes())) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_a_node_that_waits_hears_of_a_slow_one(slow: str) -> None:
    remote = Remote(slow, silence=0.2)
    assert await remote.tokens(ChatRequest(model="m", prompt="hi", via="other")) == (104, 105)
    with pytest.raises(BadRequest, match="no"):
        await remote.tokens(ChatRequest(model="m", prompt="broken", via="other"))
    await remote.close()


# Servers of other makers


class Foreign:
    """A server with these routes, each of which answers the same to whatever it is asked, and keeps that."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[Any] = []
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        for path, answer in answers.items():
            app.router.add_post(f"/{path}", self._route(answer))
        self.server = TestServer(app)

    async def _models(self, http: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "far", "object": "model"}]})

    def _route(self, answer: Any) -> Any:
        async def told(http: web.Request) -> web.Response:
            self.asked.append(await http.json())
            return web.json_response(answer)

        return told


@asynccontextmanager
async def behind(foreign: Foreign | TestServer) -> AsyncIterator[Client]:
    """A node that offers its models."""
    server = foreign.server if isinstance(foreign, Foreign) else foreign
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        url = str(server.make_url("")).rstrip("/")
        upstream = Upstream(UpstreamSettings(kind="openai", url=url), silence=10.0)
        stack.push_async_callback(upstream.close)
        yield await stack.enter_async_context(bundled(upstream))


async def test_a_llama_server() -> None:
    foreign = Foreign(tokenize={"tokens": [1, 2]}, detokenize={"content": "ab"})
    async with behind(foreign) as client:
        said = await post(client, "/tokenize", model="far", content="ab", add_special=True)
        assert (said["tokens"], said["max_model_len"]) == ([1, 2], None)
        assert foreign.asked[-1]["content"] == "ab"
        assert foreign.asked[-1]["add_special"] is True
        assert (await post(client, "/detokenize", model="far", tokens=[1, 2]))["content"] == "ab"
        assert foreign.asked[-1]["tokens"] == [1, 2]
        said = await post(client, "/tokenize", 400, model="far", content="ab", with_pieces=True)
        assert "does not show tokens one by one" in said["error"]["message"]
        said = await post(client, "/v1/chat/token/encode", 400, model="far", messages=HI)
        assert "texts only, not of conversations" in said["error"]["message"]


async def test_vllm() -> None:
    foreign = Foreign(
        tokenize={"count": 2, "max_model_len": 9, "tokens": [1, 2], "token_strs": None},
        detokenize={"prompt": "ab"},
    )
    async with behind(foreign) as client:
        said = await post(client, "/v1/chat/token/encode", model="far", messages=HI)
        assert said == {"length": 2, "num_tokens": 2, "encoded_tokens": [1, 2], "encoded_prompt": "ab"}
        asked: Mapping[str, Any] = foreign.asked[0]
        assert (asked["model"], asked["messages"]) == ("far", HI)
        await post(client, "/tokenize", model="far", prompt="ab", add_special_tokens=False)
        assert (foreign.asked[-1]["prompt"], foreign.asked[-1]["add_special_tokens"]) == ("ab", False)


async def test_a_server_without_such_routes_is_named() -> None:
    async with behind(Foreign()) as client:
        for path, body in (("tokenize", {"content": "a"}), ("detokenize", {"tokens": [1]})):
            said = await post(client, f"/{path}", 400, model="far", **body)
            message = said["error"]["message"]
            assert f"has no /{path}: it does not tell its models' tokens" in message
            assert "http://127.0.0.1:" in message


async def test_a_server_of_the_original_dialect_is_named() -> None:
    async def models(http: web.Request) -> web.Response:
        return web.json_response({"models": ["far"]})

    app = web.Application()
    app.router.add_get("/models", models)
    async with behind(TestServer(app)) as client:
        said = await post(client, "/tokenize", 400, model="far", content="a")
        assert "does not tell its models' tokens; today's rkllama does" in said["error"]["message"]


async def test_a_model_that_is_not_there_is_no_missing_route(slow: str) -> None:
    remote = Remote(slow)
    with pytest.raises(ModelNotFound):
        await remote.spell(SpellRequest(model="other", tokens=(1,)))
    await remote.close()


async def test_a_node_behind_a_node() -> None:
    shelf = ScriptedModel(Script(steps=(Text("x"),)))
    desk = Desk(served(shelf, card("far")), Metrics("0", ()), HttpSettings(), lambda: None)
    there = TestServer(build(desk, openai_routes.routes(), token_routes.routes()))
    async with behind(there) as client:
        said = await post(client, "/tokenize", model="far", content="fü", with_pieces=True)
        assert [token["piece"] for token in said["tokens"]] == ["f", [195], [188]]
        beyond = await post(client, "/detokenize", 400, model="far", tokens=[256])
        assert "token 256 is not in the vocabulary of 'far'" in beyond["error"]["message"]


async def test_one_who_only_says_that_he_is_a_node_is_answered_all_the_same() -> None:
    async with (
        bundled() as client,
        client.post(
            "/tokenize", json={"model": "exo-demo", "content": "a"}, headers={HOP_HEADER: "someone"}
        ) as answer,
    ):
        assert (await answer.json())["tokens"] == [64]
