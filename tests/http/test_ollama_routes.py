"""Ollama's routes over a node that is no node: what is asked of it, and what is answered."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from exo.cards import ModelCard, Progress, Recipe
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Sampling, Text
from exo.choice.routing import Asked, Route, choose, explain
from exo.engine import SpellRequest
from exo.engines.scripted import Fail, Hang, Script, ScriptedModel
from exo.errors import BadRequest, EngineFailed, ExoError, ModelNotFound, Overloaded
from exo.http import ollama_routes, openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.nodes import Cluster, Device, Node
from exo.settings import HttpSettings
from tests.doubles import card

HI = {"messages": [{"role": "user", "content": "hi"}]}


class Books:
    """A node that keeps a book of what it is asked."""

    def __init__(self, *steps: Text | Fail | Hang) -> None:
        self._model = ScriptedModel(Script(steps=steps or (Text("Hello"), Text("!")), slots=9))
        self._cards: Sequence[ModelCard] = (card("m"), card("tagged:latest"))
        self.asked: list[tuple[str, object]] = []
        self.steps: tuple[Progress | ExoError, ...] = ()

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.asked.append(("respond", request.model))
        async for delta in self._model.respond(request):
            yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.asked.append(("embed", request.texts))
        return Embeddings(tuple((0.5, 0.5) for _ in request.texts), 3)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        raise AssertionError("Ollama's dialect has no tokens")

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        raise AssertionError("Ollama's dialect has no tokens")

    async def cards(self) -> Sequence[ModelCard]:
        return self._cards

    async def card(self, model: str, via: str = "") -> ModelCard:
        return choose(model, self.cluster()).card

    def taken(self, id: str) -> str:
        return ""

    def explain(self, asked: Asked) -> Sequence[Route]:
        return explain(asked, self.cluster())

    async def load(self, model: str, client: str = "") -> None:
        self.asked.append(("load", model))

    async def unload(self, model: str) -> None:
        self.asked.append(("unload", model))

    def keep(self, model: str, seconds: float | None) -> None:
        self.asked.append(("keep", (model, seconds)))

    async def delete(self, model: str) -> None:
        if model not in {*(card.id for card in self._cards), "kept"}:
            raise ModelNotFound(f"model '{model}' is not here", param="model")
        self.asked.append(("delete", model))

    def create(self, model: str, recipe: Recipe) -> None:
        self.asked.append(("create", (model, recipe)))

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        self.asked.append(("pull", name))
        for step in self.steps:
            if isinstance(step, ExoError):
                raise step
            yield step

    def cluster(self) -> Cluster:
        device = Device(name="test", cores=1, memory=1)
        cards = tuple(self._cards)
        return Cluster(
            me=Node(id="test", url="", version="0", device=device, cards=cards, loaded=(), waiting=0)
        )


@asynccontextmanager
async def client_of(
    books: Books, settings: HttpSettings | None = None
) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    desk = Desk(books, Metrics("0", ()), settings or HttpSettings(), lambda: None)
    app = build(desk, openai_routes.routes(), ollama_routes.routes())
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        yield client


async def ask(
    books: Books, path: str, body: object = None, *, verb: str = "POST", **headers: str
) -> tuple[int, list[dict[str, Any]]]:
    """The status, and each line of the answer."""
    async with (
        client_of(books) as client,
        client.request(verb, path, data=json.dumps(body), headers=headers) as answer,
    ):
        return answer.status, [json.loads(line) for line in (await answer.read()).splitlines()]


# Answers


async def test_a_chat_is_streamed_unless_asked_otherwise() -> None:
    async with client_of(Books()) as client:
        async with client.post("/api/chat", json={"model": "m", **HI}) as answer:
            assert answer.content_type == "application/x-ndjson"
            sent = [json.loads(line) for line in (await answer.read()).splitlines()]
        assert [line["message"]["content"] for line in sent] == ["Hello", "!", ""]
        assert [line["done"] for line in sent] == [False, False, True]
        async with client.post("/api/chat", json={"model": "m", "stream": False, **HI}) as answer:
            assert answer.content_type == "application/json"
            whole = await answer.json()
    assert (whole["message"]["content"], whole["done_reason"]) == ("Hello!", "stop")
    assert whole["total_duration"] > 0


async def test_a_prompt() -> None:
    status, sent = await ask(Books(), "/api/generate", {"model": "m", "prompt": "hi"})
    assert (status, "".join(line["response"] for line in sent)) == (200, "Hello!")


@pytest.mark.parametrize(
    ("asked", "found"), [("m", "m"), ("m:latest", "m"), ("tagged:latest", "tagged:latest")]
)
async def test_the_tag_latest_is_understood_where_no_id_has_it(asked: str, found: str) -> None:
    books = Books()
    for stream in (True, False):
        _, sent = await ask(books, "/api/chat", {"model": asked, "stream": stream, **HI})
        assert {line["model"] for line in sent} == {found}
    assert books.asked == [("respond", found)] * 2


@pytest.mark.parametrize("model", ["tagged", "other:latest", "m:latest:latest", "m:8b"])
async def test_other_tags_are_part_of_the_name(model: str) -> None:
    status, [error] = await ask(Books(), "/api/chat", {"model": model, **HI})
    assert status == 404
    assert "not found" in error["error"]


@pytest.mark.parametrize(("given", "seconds"), [(0, 0.0), ("5m", 300.0), (-1, None)])
@pytest.mark.parametrize("stream", [True, False])
async def test_keep_alive_holds_after_the_answer(stream: bool, given: object, seconds: float | None) -> None:
    books = Books()
    await ask(books, "/api/chat", {"model": "m", "stream": stream, "keep_alive": given, **HI})
    assert books.asked == [("respond", "m"), ("keep", ("m", seconds))]


async def test_keep_alive_holds_after_a_failure_too() -> None:
    books = Books(Fail("broken"))
    status, _ = await ask(books, "/api/generate", {"model": "m", "prompt": "hi", "keep_alive": 0})
    assert status == 502
    assert books.asked[-1] == ("keep", ("m", 0.0))


@pytest.mark.parametrize(("path", "empty"), [("/api/chat", {"messages": []}), ("/api/generate", {})])
async def test_asking_nothing_loads_and_unloads(path: str, empty: dict[str, Any]) -> None:
    books = Books()
    status, [loaded] = await ask(books, path, {"model": "m", **empty})
    assert (status, loaded["done"], loaded["done_reason"]) == (200, True, "load")
    _, [left] = await ask(books, path, {"model": "m", "keep_alive": 0, **empty})
    assert left["done_reason"] == "unload"
    await ask(books, path, {"model": "m", "keep_alive": "1h", **empty})
    assert books.asked == [
        ("load", "m"),
        ("keep", ("m", 0.0)),
        ("load", "m"),
        ("keep", ("m", 3600.0)),
    ]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])
async def test_more_context_than_there_is_is_refused(path: str) -> None:
    books = Books()
    asks: dict[str, dict[str, object]] = {"/api/chat": {**HI}, "/api/embed": {"input": "a"}}
    body = {"model": "m", "options": {"num_ctx": 5000}, **asks.get(path, {"prompt": "hi"})}
    status, [error] = await ask(books, path, body)
    assert status == 400
    assert "num_ctx is 5000" in error["error"]
    assert books.asked == []


async def test_embeddings() -> None:
    books = Books()
    _, [answer] = await ask(books, "/api/embed", {"model": "m", "input": ["a", "b"], "keep_alive": 5})
    assert answer["embeddings"] == [[0.5, 0.5]] * 2
    assert (answer["model"], answer["prompt_eval_count"]) == ("m", 3)
    assert await ask(books, "/api/embeddings", {"model": "m", "prompt": "a"}) == (
        200,
        [{"embedding": [0.5, 0.5]}],
    )
    assert books.asked == [("embed", ("a", "b")), ("keep", ("m", 5.0)), ("embed", ("a",))]


async def test_embedding_nothing_loads_the_model() -> None:
    books = Books()
    _, [answer] = await ask(books, "/api/embed", {"model": "m", "input": ""})
    assert answer["embeddings"] == []
    assert books.asked == [("load", "m")]


# Failures


async def test_a_failure_before_the_first_word_is_a_status() -> None:
    for stream in (True, False):
        body = {"model": "m", "stream": stream, **HI}
        assert await ask(Books(Fail("broken")), "/api/chat", body) == (502, [{"error": "broken"}])


async def test_a_failure_in_the_middle_is_a_line_and_no_end() -> None:
    status, sent = await ask(Books(Text("so far"), Fail("broken")), "/api/chat", {"model": "m", **HI})
    assert status == 200
    assert [line.get("done") for line in sent] == [False, None]
    assert sent[-1] == {"error": "broken"}


async def test_retry_after() -> None:
    class Full(Books):
        async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
            raise Overloaded("full", retry_after=3)
            yield

    async with (
        client_of(Full()) as client,
        client.post("/api/chat", json={"model": "m", **HI}) as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
        assert await answer.json() == {"error": "full"}


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [("GET", "/api/nothing", 404), ("GET", "/api/chat", 405), ("POST", "/api/chat", 400)],
)
async def test_failures_under_api_look_as_ollamas(verb: str, path: str, status: int) -> None:
    answered, [error] = await ask(Books(), path, verb=verb)
    assert answered == status
    assert set(error) == {"error"}
    assert isinstance(error["error"], str)


async def test_failures_elsewhere_look_as_openais() -> None:
    for verb, path in (("GET", "/v1/nothing"), ("GET", "/apis"), ("POST", "/v1/chat/completions")):
        _, [error] = await ask(Books(), path, verb=verb)
        assert set(error["error"]) == {"message", "type", "param", "code"}


async def test_keys_and_origins_are_refused_in_the_dialect() -> None:
    async with client_of(Books(), HttpSettings(key="s3cret")) as client:
        async with client.get("/api/tags") as answer:
            assert answer.status == 401
            assert "Bearer" in (await answer.json())["error"]
        async with client.get("/api/tags", headers={"Origin": "https://evil.example"}) as answer:
            assert answer.status == 403
            assert "evil.example" in (await answer.json())["error"]


# Models


async def test_tags_and_show() -> None:
    _, [tags] = await ask(Books(), "/api/tags", verb="GET")
    assert [model["name"] for model in tags["models"]] == ["m", "tagged:latest"]
    _, [shown] = await ask(Books(), "/api/show", {"model": "m:latest"})
    assert shown["modelfile"] == "FROM m\n"
    status, _ = await ask(Books(), "/api/show", {"model": "x"})
    assert status == 404


async def test_version() -> None:
    _, [version] = await ask(Books(), "/api/version", verb="GET")
    assert [int(part) for part in version["version"].split(".")] >= [0, 12, 11]


async def test_create_and_delete() -> None:
    books = Books()
    body = {"model": "new", "from": "m:latest", "system": "s", "parameters": {"temperature": 0}}
    assert await ask(books, "/api/create", body) == (200, [{"status": "success"}])
    assert await ask(books, "/api/delete", {"model": "m:latest"}, verb="DELETE") == (200, [])
    recipe = Recipe(base="m", system="s", sampling=Sampling(temperature=0.0))
    assert books.asked == [("create", ("new", recipe)), ("delete", "m")]
    status, _ = await ask(books, "/api/create", {"model": "new", "from": "nowhere"})
    assert status == 404


async def test_what_is_on_the_disk_is_deleted_though_it_cannot_be_asked_for() -> None:
    books = Books()
    assert (await ask(books, "/api/show", {"model": "kept"}))[0] == 404
    assert await ask(books, "/api/delete", {"model": "kept"}, verb="DELETE") == (200, [])
    assert books.asked == [("delete", "kept")]
    for name in ("nope", "nope:latest"):
        assert (await ask(books, "/api/delete", {"model": name}, verb="DELETE"))[0] == 404


async def test_pull() -> None:
    books = Books()
    books.steps = (Progress("a.gguf", 0, 0), Progress("a.gguf", 5, 9), Progress("a.gguf", 9, 9))
    status, sent = await ask(books, "/api/pull", {"model": "u/r/a.gguf"})
    assert status == 200
    assert sent == [
        {"status": "pulling manifest"},
        {"status": "pulling a.gguf", "completed": 0},
        {"status": "pulling a.gguf", "total": 9, "completed": 5},
        {"status": "pulling a.gguf", "total": 9, "completed": 9},
        {"status": "success"},
    ]
    whole = await ask(books, "/api/pull", {"model": "u/r/a.gguf", "stream": False})
    assert whole == (200, [{"status": "success"}])
    assert books.asked == [("pull", "u/r/a.gguf")] * 2


async def test_a_pull_that_fails() -> None:
    books = Books()
    for stream in (True, False):
        books.steps = (BadRequest("no such file"),)
        refused = await ask(books, "/api/pull", {"model": "x", "stream": stream})
        assert refused == (400, [{"error": "no such file"}])
    books.steps = (Progress("a.gguf", 5, 9), EngineFailed("the hub broke off"))
    status, sent = await ask(books, "/api/pull", {"model": "x"})
    assert (status, sent[-1]) == (200, {"error": "the hub broke off"})
    assert {"status": "success"} not in sent
    assert (await ask(books, "/api/pull", {"model": "x", "stream": False}))[0] == 502


@pytest.mark.parametrize(
    ("verb", "path"), [("POST", "/api/pull"), ("POST", "/api/create"), ("DELETE", "/api/delete")]
)
async def test_only_the_owner_changes_what_is_on_the_disk(verb: str, path: str) -> None:
    books = Books()
    body = {"model": "m", "from": "m"}
    status, [error] = await ask(books, path, body, verb=verb, **{"X-Forwarded-For": "192.0.2.1"})
    assert status == 403
    assert "EXO_API_KEY" in error["error"]
    assert books.asked == []


@pytest.mark.parametrize("path", ["/api/copy", "/api/push", "/api/blobs/sha256:00"])
async def test_what_there_is_not_says_what_to_do(path: str) -> None:
    status, [error] = await ask(Books(), path, {"source": "m", "destination": "n"})
    assert status == 400
    assert ":" in error["error"]


async def test_there_are_no_blobs() -> None:
    async with client_of(Books()) as client, client.head("/api/blobs/sha256:00") as answer:
        assert answer.status == 404


async def test_a_client_that_leaves_a_chat_still_has_its_keep_alive() -> None:
    books = Books(Text("started"), Hang())
    async with client_of(books) as client:
        body = {"model": "m", "keep_alive": 0, **HI}
        async with client.post("/api/chat", json=body, timeout=aiohttp.ClientTimeout(60)) as answer:
            await answer.content.readline()
    assert ("keep", ("m", 0.0)) in books.asked
