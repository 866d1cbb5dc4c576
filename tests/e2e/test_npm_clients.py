"""The npm clients `openai` and `ai` (the Vercel AI SDK) against a node: they are understood, and get what
they expect. Each says what it got in one form, whatever its dialect, so a test is the same for all."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, Delta, Finished, Message, Reasoning, Text, ToolCall, Usage
from exo.errors import Overloaded
from exo.http import anthropic_routes, openai_routes, responses_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.kept_responses import KeptResponses
from exo.metrics import Metrics
from exo.settings import HttpSettings
from tests.doubles import card, served

from .conftest import Start
from .node import HANG, Node, Wire, eventually, raw_chat, text
from .npm import (
    AI_ANTHROPIC,
    AI_COMPATIBLE,
    AI_OPENAI,
    AI_RESPONSES,
    OPENAI,
    OPENAI_RESPONSES,
    Client,
    Npm,
    Script,
)

CLIENTS = [OPENAI, OPENAI_RESPONSES, AI_OPENAI, AI_COMPATIBLE, AI_RESPONSES, AI_ANTHROPIC]


@pytest.fixture(scope="module")
def _scripts() -> Iterator[Mapping[str, Script]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(Script(name)))
            for name in sorted({each.script for each in CLIENTS})
        }


@pytest.fixture(params=CLIENTS, ids=str)
def client(request: pytest.FixtureRequest, _scripts: Mapping[str, Script]) -> Client:
    return Client(request.param, _scripts[request.param.script])


def only(*clients: Npm) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", clients, indirect=True, ids=str)


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# Chats


@only(OPENAI)
def test_models(client: Client, node: Node) -> None:
    assert {"exo-demo", "hello"} <= set(client.ask("models", node.url)["ids"])


def test_chat(client: Client, node: Node) -> None:
    got = client.ask("chat", node.url, model="hello")
    assert got == {"text": "Hello, wörld!", "reasoning": "", "finish": "stop", "usage": [1, 4]}


def test_streamed_chat(client: Client, node: Node) -> None:
    got = client.ask("stream", node.url, model="hello")
    assert got.pop("pieces") == ["Hello", ", ", "wörld", "!"]
    assert got == {"text": "Hello, wörld!", "reasoning": "", "finish": "stop", "usage": [1, 4]}


def test_an_answer_that_is_cut_short_says_so(client: Client, node: Node) -> None:
    for behaviour in ("chat", "stream"):
        got = client.ask(behaviour, node.url, model="hello", limit=2)
        assert (got["text"], got["finish"], got["usage"]) == ("Hello, ", "length", [1, 2])


# AI_OPENAI knows of no thoughts in a chat.
@only(OPENAI, OPENAI_RESPONSES, AI_COMPATIBLE, AI_RESPONSES, AI_ANTHROPIC)
def test_thoughts_are_kept_apart(client: Client, node: Node) -> None:
    for behaviour in ("chat", "stream"):
        # AI_RESPONSES reads no others than summaries, and those have to be asked for.
        got = client.ask(behaviour, node.url, model="thinker", summary=client.name == AI_RESPONSES)
        assert (got["reasoning"], got["text"]) == ("Hm.", "42")


@only(OPENAI, AI_OPENAI, AI_COMPATIBLE)
def test_embeddings(client: Client, node: Node) -> None:
    one, two = client.ask("embed", node.url, model="exo-demo")["vectors"]
    assert one != two
    for vector in (one, two):
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)


class Result(msgspec.Struct, forbid_unknown_fields=True):
    sum: int
    even: bool
    word: str


def test_structured_output(client: Client, node: Node, stream: bool) -> None:
    """The schema is one that the client made of Zod's types, and the answer is read by them."""
    got = client.ask("object", node.url, model="exo-demo", prompt="What is 12 + 35?", stream=stream)
    result = msgspec.convert(got["object"], Result)
    assert 0 <= result.sum <= 1999
    assert result.word in ("small", "große")


# Tools


class Adder:
    """Adds by the tool it is given: calls it, and says what comes of that. Refuses the first `refusals`
    requests, and keeps what else it is asked."""

    def __init__(self, refusals: int = 0, retry_after: float = 0.0) -> None:
        self.asked: list[ChatRequest] = []
        self.times: list[float] = []
        self._refusals = refusals
        self._retry_after = retry_after

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self._refusals:
            raise Overloaded("too much at once", retry_after=self._retry_after)
        self.asked.append(request)
        last = request.messages[-1]
        yield Reasoning("Hm.")
        if last.role == "tool" or not request.tools:
            for word in ("It is ", last.content):
                yield Text(word)
            yield Finished("stop", Usage(9, 2))
        else:
            yield ToolCall(0, "call_1", "add")
            for piece in ('{"a": 2', ', "b": 3}'):
                yield ToolCall(0, arguments=piece)
            yield Finished("tool_calls", Usage(5, 3))


@asynccontextmanager
async def node_of(adder: Adder) -> AsyncIterator[str]:
    """A node with it; its address."""
    desk = Desk(served(adder, card("adder")), Metrics("0", ()), HttpSettings(), lambda: None)
    responses = responses_routes.routes(KeptResponses())
    app = build(desk, openai_routes.routes(), responses, anthropic_routes.routes())
    async with TestServer(app, handler_cancellation=True) as server:
        yield str(server.make_url("")).rstrip("/")


async def run(client: Client, behaviour: str, adder: Adder, **asked: object) -> dict[str, Any]:
    async with node_of(adder) as url:
        return await asyncio.to_thread(client.ask, behaviour, url, model="adder", **asked)


def assert_added(adder: Adder, got: dict[str, Any]) -> None:
    """The tool was called, and what it gave came back as the result of that call."""
    assert got == {"called": [[2, 3]], "text": "It is 5"}
    first, second = adder.asked
    [question] = first.messages
    [tool] = first.tools
    assert question == Message("user", "hi")
    assert (tool.name, tool.description, set(tool.parameters["properties"])) == (
        "add",
        "Adds two numbers.",
        {"a", "b"},
    )
    assert second.tools == (tool,)
    again, calls, result = second.messages
    assert again == question
    assert (calls.role, calls.content) == ("assistant", "")
    [call] = calls.tool_calls
    assert (call.id, call.name, msgspec.json.decode(call.arguments)) == ("call_1", "add", {"a": 2, "b": 3})
    assert result == Message("tool", "5", tool_call_id="call_1")


async def test_a_tool_is_called_and_its_result_given_back(client: Client, stream: bool) -> None:
    adder = Adder()
    assert_added(adder, await run(client, "tools", adder, stream=stream))
    assert [request.must_call for request in adder.asked] == [(), ()]


async def test_a_model_is_made_to_call_a_tool(client: Client) -> None:
    adder = Adder()
    assert_added(adder, await run(client, "tools", adder, must_call=True))
    assert adder.asked[0].must_call == ("add",)


@only(OPENAI_RESPONSES)
async def test_the_server_need_not_keep_a_call_for_its_result(client: Client, stream: bool) -> None:
    adder = Adder()
    assert_added(adder, await run(client, "tools", adder, stream=stream, stateless=True))


async def test_a_conversation_goes_on_with_what_the_client_made_of_an_answer(
    client: Client, stream: bool
) -> None:
    adder = Adder()
    assert await run(client, "again", adder, stream=stream) == {"text": "It is more"}
    question, said, more = adder.asked[1].messages
    assert (question, more) == (Message("user", "hi"), Message("user", "more"))
    assert (said.role, said.content) == ("assistant", "It is hi")
    if client.name in (OPENAI_RESPONSES, AI_COMPATIBLE, AI_RESPONSES, AI_ANTHROPIC):
        assert said.reasoning == "Hm."


# Errors


def assert_refused(
    client: Client, error: dict[str, Any], status: int | None, code: str, param: str | None = None
) -> None:
    """Anthropic's dialect has neither codes nor parameters, but in the message."""
    expected = (status, None, None) if client.name == AI_ANTHROPIC else (status, code, param)
    assert (error["status"], error["code"], error["param"]) == expected, error


def test_unknown_model(client: Client, node: Node) -> None:
    for behaviour in ("chat", "stream"):
        error = client.error(behaviour, node.url, model="exo-dmo")
        assert_refused(client, error, 404, "model_not_found", "model")
        assert "exo-demo" in error["message"]


def test_bad_parameter(client: Client, node: Node) -> None:
    for behaviour in ("chat", "stream"):
        error = client.error(behaviour, node.url, model="hello", top_p=2)
        assert_refused(client, error, 400, "bad_request", "top_p")
        assert "top_p must be a number" in error["message"]


def test_key(client: Client, start: Start) -> None:
    node = start(env={"EXO_API_KEY": "s3cret"}, scripts={"hello": [text("Hello")]})
    assert_refused(client, client.error("chat", node.url, model="hello", key="wrong"), 401, "unauthorized")
    assert client.ask("chat", node.url, model="hello", key="s3cret")["text"] == "Hello"


def test_failure_in_the_middle_of_a_stream(client: Client, node: Node) -> None:
    """What was said so far is no answer."""
    error = client.error("stream", node.url, model="breaks-midway")
    assert_refused(client, error, None, "engine_failed")
    assert error["message"] == "the wheel came off"


def test_overload(client: Client, start: Start) -> None:
    node = start("--max-waiting", "1", scripts={"hangs": [text("started"), HANG]})
    with Wire(node) as running, Wire(node) as waiting:
        running.send(raw_chat("hangs", stream=True))
        running.until(b"started")
        waiting.send(raw_chat("hangs"))
        eventually(lambda: node.waiting() == 1)
        for behaviour in ("chat", "stream"):
            error = client.error(behaviour, node.url, model="hangs")
            assert_refused(client, error, 429, "overloaded")
            assert int(error["retryAfter"]) >= 1


# Seconds that neither client would wait of its own accord.
@pytest.mark.parametrize(
    ("client", "seconds"), [(OPENAI, 1), (AI_COMPATIBLE, 3)], indirect=["client"], ids=str
)
async def test_it_comes_back_when_it_is_told_to(client: Client, seconds: int) -> None:
    adder = Adder(refusals=1, retry_after=seconds)
    assert (await run(client, "chat", adder, retries=2))["text"] == "It is hi"
    refused, answered = adder.times
    assert answered - refused >= seconds


# Hanging up


def test_abort_in_the_middle_of_a_stream(client: Client, node: Node) -> None:
    """The client's process stays, so it is not its end that lets go of the model."""
    id = f"abort-{client.name}"
    assert client.ask("abort", node.url, model="hangs", id=id) == {"aborted": True}
    assert node.access(id)["status"] == 499
    assert (node.running(), node.waiting()) == (0, 0)
