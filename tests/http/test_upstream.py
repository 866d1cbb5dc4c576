"""`Upstream` against servers of every kind: our own, a minimal one, one of the original dialect, and none."""

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from exo.chat import (
    ChatRequest,
    Delta,
    Embeddings,
    EmbedRequest,
    Finished,
    Message,
    Text,
    Timings,
    Usage,
)
from exo.engines.scripted import Fail, Hang, Script, ScriptedModel
from exo.errors import (
    BY_CODE,
    BadRequest,
    ContextLengthExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    Timeout,
)
from exo.http import openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.upstream import NPU_MODELS, Upstream, pauses
from exo.metrics import Metrics
from exo.settings import HttpSettings, UpstreamSettings
from tests.doubles import answer, card, finished, served, text

HI = Message("user", "hi")
ASK = ChatRequest(model="m", messages=(HI,))
PATIENCE = 10.0


@pytest.fixture
def port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def upstream_at(
    server: BaseTestServer | int,
    kind: str = "openai",
    *,
    silence: float = PATIENCE,
    silence_for: Mapping[str, float] = MappingProxyType({}),
    **keys: Any,
) -> AsyncIterator[Upstream]:
    port = server if isinstance(server, int) else server.port
    url = f"http://127.0.0.1:{port}"
    settings = UpstreamSettings(kind=kind, url=url, **keys)  # type: ignore[arg-type]
    upstream = Upstream(settings, silence=silence, silence_for=silence_for)
    try:
        yield upstream
    finally:
        await upstream.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)


class Wrapped:
    """A scripted model that also gives embeddings, and keeps what it was asked."""

    def __init__(self, *steps: Any, context: int = 4096) -> None:
        self.model = ScriptedModel(Script(steps=steps, slots=9, context=context))
        self.asked: list[ChatRequest | EmbedRequest] = []

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.asked.append(request)
        return self.model.respond(request)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.asked.append(request)
        return Embeddings(tuple((0.6, -0.8) for _ in request.texts), 5)


def our_own(model: Wrapped, *ids: str, port: int = 0, key: str | None = None) -> TestServer:
    """A node that plays a script under each of these names."""
    desk = Desk(
        served(model, *map(card, ids or ("m",))), Metrics("0", ()), HttpSettings(key=key), lambda: None
    )
    return TestServer(build(desk, openai_routes.routes()), port=port, handler_cancellation=True)


class Minimal:
    """As little as an OpenAI-compatible server can be. `models` is its answer to GET /v1/models, with status
    and body; asked for anything it says "Hello" and keeps the request."""

    def __init__(self, models: Any, *, status: int = 200) -> None:
        self.models = models
        self.status = status
        self.listed = 0
        self.asked: list[tuple[web.Request, Any]] = []
        self.chat_status = 200
        self.hold: asyncio.Event | None = None
        self.thinks = 0.0

    def server(self, port: int = 0) -> TestServer:
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)
        return TestServer(app, port=port)

    async def _list(self, http: web.Request) -> web.Response:
        self.listed += 1
        if self.hold:
            await self.hold.wait()
        body = self.models if isinstance(self.models, str) else json.dumps(self.models)
        return web.Response(text=body, status=self.status)

    async def _chat(self, http: web.Request) -> web.Response:
        self.asked.append((http, await http.json()))
        await asyncio.sleep(self.thinks)
        if self.chat_status != 200:
            return web.Response(status=self.chat_status, text="{}")
        chunk = {"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}
        return web.Response(text=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")


def listing(*ids: str) -> Any:
    return {"object": "list", "data": [{"id": id} for id in ids]}


def original(*models: str, port: int = 0, thinks: float = 0.0) -> TestServer:
    """A server that speaks only the original dialect, and says "Hello" there, after so many seconds."""
    current: list[str] = []

    async def list_models(http: web.Request) -> web.Response:
        return web.json_response({"models": list(models)})

    async def current_model(http: web.Request) -> web.Response:
        if not current:
            return web.json_response({"error": "No models are currently loaded."}, status=404)
        return web.json_response({"model_name": current[0]})

    async def load_model(http: web.Request) -> web.Response:
        current[:] = [(await http.json())["model_name"]]
        return web.json_response({"message": "loaded"})

    async def unload_model(http: web.Request) -> web.Response:
        current.clear()
        return web.json_response({"message": "unloaded"})

    async def generate(http: web.Request) -> web.Response:
        await asyncio.sleep(thinks)
        choice = {"role": "assistant", "content": f"Hello of {current[0]}", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        return web.json_response({"object": "rkllm_chat", "choices": [choice], "usage": usage})

    app = web.Application()
    app.add_routes(
        [
            web.get("/models", list_models),
            web.get("/current_model", current_model),
            web.post("/load_model", load_model),
            web.post("/unload_model", unload_model),
            web.post("/generate", generate),
        ]
    )
    return TestServer(app, port=port)


def ids(upstream: Upstream) -> Sequence[str]:
    return [card.id for card in upstream.cards]


# What it has


async def test_models_of_the_npu_server_have_our_names_here_and_its_own_there() -> None:
    minimal = Minimal(listing("Qwen2.5-1.5B-Instruct", "Mine"))
    async with minimal.server() as server, upstream_at(server, "rkllm") as upstream:
        await upstream.refresh()
        assert ids(upstream) == ["qwen2.5-1.5b-instruct-rkllm", "Mine"]
        assert {(card.format, card.memory) for card in upstream.cards} == {("rkllm", 0)}
        for ours, theirs in (("qwen2.5-1.5b-instruct-rkllm", "Qwen2.5-1.5B-Instruct"), ("Mine", "Mine")):
            assert text(await answer(upstream, ChatRequest(model=ours, messages=(HI,)))) == "Hello"
            assert minimal.asked[-1][1]["model"] == theirs


async def test_models_of_another_server_keep_their_names() -> None:
    minimal = Minimal(listing("Qwen2.5-1.5B-Instruct"))
    async with minimal.server() as server, upstream_at(server) as upstream:
        await upstream.refresh()
        assert [(card.id, card.format) for card in upstream.cards] == [("Qwen2.5-1.5B-Instruct", "remote")]
        assert upstream.why_not_ready() is None


async def test_many_callers_cost_one_question() -> None:
    minimal = Minimal(listing("m"))
    async with minimal.server() as server, upstream_at(server) as upstream:
        await asyncio.gather(*(upstream.refresh() for _ in range(20)))
        assert (minimal.listed, ids(upstream)) == (1, ["m"])
        await upstream.refresh()
        assert minimal.listed == 2


async def test_one_who_stops_waiting_takes_the_answer_from_nobody_else() -> None:
    minimal = Minimal(listing("m"))
    minimal.hold = asyncio.Event()
    async with minimal.server() as server, upstream_at(server) as upstream:
        waiting = [asyncio.create_task(upstream.refresh()) for _ in range(2)]
        await until(lambda: minimal.listed == 1)
        waiting[0].cancel()
        minimal.hold.set()
        await waiting[1]
        assert ids(upstream) == ["m"]


async def test_a_server_that_says_nothing_is_waited_for_two_seconds() -> None:
    minimal = Minimal(listing("m"))
    minimal.hold = asyncio.Event()
    async with minimal.server() as server, upstream_at(server) as upstream:
        began = asyncio.get_running_loop().time()
        await upstream.refresh()
        assert asyncio.get_running_loop().time() - began < 3
        assert upstream.cards == ()
        assert "did not say within 2 s" in (upstream.why_not_ready() or "")
        minimal.hold.set()


@pytest.mark.parametrize(
    ("models", "status", "words"),
    [
        ("<html>", 200, "no list of models"),
        ({"models": ["m"]}, 200, "no list of models"),
        ({"error": {"message": "who are you"}}, 401, "who are you; EXO_UPSTREAM_KEY is the key it gets"),
        ("", 500, "status 500"),
        ({"error": {"message": "stopping"}}, 503, "does not say which models it has: stopping"),
        ("", 404, "status 404"),
        (listing(), 200, "has no model"),
    ],
)
async def test_a_server_that_tells_no_models_is_named_with_the_reason(
    models: Any, status: int, words: str
) -> None:
    async with Minimal(models, status=status).server() as server, upstream_at(server) as upstream:
        await upstream.refresh()
        assert upstream.cards == ()
        reason = upstream.why_not_ready()
        assert reason
        assert reason.startswith(f"the server at http://127.0.0.1:{server.port} ")
        assert words in reason


async def test_a_key_is_sent() -> None:
    async with our_own(Wrapped(Text("Hello")), key="s3cret") as server:
        async with upstream_at(server, key="s3cret") as upstream:
            await upstream.refresh()
            assert text(await answer(upstream, ASK)) == "Hello"
        async with upstream_at(server, "rkllm", key="wrong") as upstream:
            await upstream.refresh()
            assert "EXO_API_KEY is the key it gets" in (upstream.why_not_ready() or "")


# Models that are not there


async def test_a_model_of_an_npu_server_that_is_not_there_says_what_to_start(port: int) -> None:
    async with upstream_at(port, "rkllm") as upstream:
        await upstream.refresh()
        assert upstream.cards == ()
        for model in NPU_MODELS:
            absent = upstream.absent(model)
            assert type(absent) is NotReady
            assert f"cannot reach the NPU server at http://127.0.0.1:{port}: Connection" in absent.message
            assert "; start rkllama there" in absent.message
        other = upstream.absent("Mine")
        assert type(other) is NotReady
        assert other.message.startswith("model 'Mine' is not here; cannot reach the NPU server")


async def test_a_model_that_the_npu_server_lacks_says_where_its_file_goes() -> None:
    async with Minimal(listing("Mine")).server() as server, upstream_at(server, "rkllm") as upstream:
        await upstream.refresh()
        absent = upstream.absent("deepseek-r1-1.5b-rkllm")
        assert type(absent) is ModelNotFound
        assert "~/RKLLAMA/models/DeepSeek-R1-1.5B on that machine" in absent.message
        assert absent.param == "model"
        assert upstream.absent("other") is None
        with pytest.raises(ModelNotFound):
            await answer(upstream, ChatRequest(model="other", messages=(HI,)))


async def test_nothing_is_promised_of_the_npu_servers_models_elsewhere() -> None:
    async with Minimal(listing("m")).server() as server, upstream_at(server) as upstream:
        await upstream.refresh()
        assert upstream.absent("deepseek-r1-1.5b-rkllm") is None


# A server that goes and comes back


async def test_a_server_that_went_is_named_and_one_that_came_back_answers(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exo.http.upstream")
    async with upstream_at(port) as upstream:
        async with our_own(Wrapped(Text("Hello")), port=port):
            await upstream.refresh()
            assert text(await answer(upstream, ASK)) == "Hello"
        for _ in range(2):
            with pytest.raises(NotReady, match=f"cannot reach the server at http://127.0.0.1:{port}: Conn"):
                await answer(upstream, ASK)
        assert upstream.cards == ()
        absent = upstream.absent("m")
        assert type(absent) is NotReady
        assert upstream.absent("other") is None
        assert "cannot reach" in (upstream.why_not_ready() or "")
        async with our_own(Wrapped(Text("Hello again")), port=port):
            await upstream.refresh()
            assert text(await answer(upstream, ASK)) == "Hello again"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert caplog.messages[0] == caplog.messages[2] == f"the server at http://127.0.0.1:{port} has m"


async def test_a_server_that_was_not_there_is_found_without_being_asked_for(port: int) -> None:
    minimal = Minimal(listing("m"))
    async with upstream_at(port) as upstream:
        await upstream.refresh()
        async with minimal.server(port):
            await until(lambda: upstream.why_not_ready() is None)
            await until(lambda: not _asking())
            assert minimal.listed == 1


def _asking() -> list[asyncio.Task[Any]]:
    """Tasks that ask, or are going to."""
    return [task for task in asyncio.all_tasks() if "Upstream." in repr(task.get_coro())]


async def test_one_that_answers_is_left_in_peace() -> None:
    async with Minimal(listing("m")).server() as server, upstream_at(server) as upstream:
        await upstream.refresh()
        await answer(upstream, ASK)
        assert not _asking()


def test_a_server_that_does_not_answer_is_asked_ever_more_rarely() -> None:
    assert list(itertools.islice(pauses(), 8)) == [1, 2, 4, 8, 16, 30, 30, 30]


# Answers


async def test_the_whole_conversation_and_who_asks_are_passed_on() -> None:
    far = Wrapped(Text("Hello"))
    request = ChatRequest(
        model="m",
        messages=(Message("system", "Be kind."), HI, Message("assistant", "What?"), Message("user", "Well")),
        id="r1",
        client="10.0.0.7",
    )
    async with our_own(far) as server, upstream_at(server) as upstream:
        await upstream.refresh()
        await answer(upstream, request)
        assert far.asked == [request]
        assert (await upstream.embed(EmbedRequest(model="m", texts=("a", "b"), client="10.0.0.8"))) == (
            Embeddings(((0.6, -0.8), (0.6, -0.8)), 5)
        )
        embedded = far.asked[1]
        assert isinstance(embedded, EmbedRequest)
        assert (embedded.texts, embedded.client) == (("a", "b"), "10.0.0.8")


async def test_a_client_whose_name_no_header_can_carry_goes_by_its_address() -> None:
    far = Wrapped(Text("Hello"))
    async with our_own(far) as server, upstream_at(server) as upstream:
        await upstream.refresh()
        await answer(upstream, ChatRequest(model="m", messages=(HI,), client="ü"))
        assert far.asked[0].client == "127.0.0.1"


@pytest.mark.parametrize("dialect", ["openai", "original"])
async def test_a_model_may_have_more_patience_or_less_than_the_others(dialect: str) -> None:
    models = ("Qwen2.5-7b", "quick", "m")
    minimal = Minimal(listing(*models))
    minimal.thinks = 1.0
    server = minimal.server() if dialect == "openai" else original(*models, thinks=1.0)
    own = {"qwen2.5-7b-rkllm": 30.0, "quick": 0.1}
    async with server, upstream_at(server, "rkllm", silence=0.5, silence_for=own) as upstream:
        await upstream.refresh()
        patiently = msgspec.structs.replace(ASK, model="qwen2.5-7b-rkllm")
        assert text(await answer(upstream, patiently)).startswith("Hello")
        for model, seconds in (("quick", r"0\.1"), ("m", r"0\.5")):
            with pytest.raises(Timeout, match=f"was silent for {seconds} s"):
                await answer(upstream, msgspec.structs.replace(ASK, model=model))


async def test_usage_and_timings_come_through() -> None:
    end = Finished("length", Usage(7, 3, reasoning_tokens=1, cached_tokens=2), Timings(0.125, 1.5))
    async with our_own(Wrapped(Text("Hello"), end)) as server, upstream_at(server) as upstream:
        await upstream.refresh()
        assert finished(await answer(upstream, ASK)) == end


async def test_hanging_up_lets_go_of_the_slot_there() -> None:
    far = Wrapped(Text("so far"), Hang())
    async with our_own(far) as server, upstream_at(server) as upstream:
        await upstream.refresh()
        async with aclosing(upstream.respond(ASK)) as deltas:
            await anext(deltas)
            assert far.model.running == 1
        await until(lambda: not far.model.running)


@pytest.mark.parametrize("code", BY_CODE)
async def test_what_it_refuses_is_refused_here_for_the_same_reason(code: str) -> None:
    async with our_own(Wrapped(Fail("because", code))) as server, upstream_at(server) as upstream:
        await upstream.refresh()
        with pytest.raises(BY_CODE[code], match=r"^because$") as failed:
            await answer(upstream, ASK)
        assert type(failed.value) is BY_CODE[code]
        assert ids(upstream) == ["m"]


async def test_a_prompt_too_long_for_it_names_the_parameter() -> None:
    async with our_own(Wrapped(Text("x"), context=3)) as server, upstream_at(server) as upstream:
        await upstream.refresh()
        with pytest.raises(ContextLengthExceeded) as refused:
            await answer(upstream, ChatRequest(model="m", messages=(Message("user", "far too many words"),)))
        assert refused.value.param == "messages"


async def test_a_full_queue_there_is_asked_nothing_more() -> None:
    minimal = Minimal(listing("m"))
    async with minimal.server() as server, upstream_at(server) as upstream:
        await upstream.refresh()
        minimal.chat_status = 429
        with pytest.raises(Overloaded):
            await answer(upstream, ASK)
        assert not _asking()
        assert minimal.listed == 1


async def test_a_model_it_no_longer_has_is_no_longer_offered() -> None:
    minimal = Minimal(listing("m", "n"))
    async with minimal.server() as server, upstream_at(server) as upstream:
        await upstream.refresh()
        minimal.models, minimal.chat_status = listing("n"), 404
        with pytest.raises(BY_CODE["not_found"]):
            await answer(upstream, ASK)
        await until(lambda: ids(upstream) == ["n"])


# The original dialect


async def test_a_server_of_the_original_dialect_answers_in_it(port: int) -> None:
    request = ChatRequest(model="qwen2.5-3b-rkllm", messages=(HI,))
    async with upstream_at(port, "rkllm") as upstream:
        async with original("Qwen2.5-3B", port=port):
            await upstream.refresh()
            assert ids(upstream) == ["qwen2.5-3b-rkllm"]
            assert text(await answer(upstream, request)) == "Hello of Qwen2.5-3B"
            with pytest.raises(BadRequest, match="gives no embeddings"):
                await upstream.embed(EmbedRequest(model="qwen2.5-3b-rkllm", texts=("a",)))
        async with Minimal(listing("Qwen2.5-3B")).server(port):
            await upstream.refresh()
            assert text(await answer(upstream, request)) == "Hello"
