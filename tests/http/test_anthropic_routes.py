"""Anthropic's routes as its own Python client sees them, over a node that says what it is told to."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import BaseModel

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Finished, Message, Reasoning, Text, ToolCall, Usage
from exo.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineFailed,
    ExoError,
    NotReady,
    Overloaded,
)
from exo.http import anthropic_routes
from exo.http.app import build, json_answer
from exo.http.desk import DESK, Desk
from exo.metrics import Metrics
from exo.settings import HttpSettings
from exo.wire import anthropic as wire
from tests.doubles import card, served

HI: list[Any] = [{"role": "user", "content": "hi"}]
ADD: Any = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
USAGE = Usage(prompt_tokens=9, completion_tokens=5, reasoning_tokens=2, cached_tokens=4)
END = Finished("stop", USAGE)
CALLS: list[Delta] = [
    Reasoning("Hm"),
    Reasoning("."),
    Text("Let me see."),
    ToolCall(0, "c1", "add"),
    ToolCall(0, arguments='{"a"'),
    ToolCall(0, arguments=": 2}"),
    ToolCall(1, "c2", "add", '{"a": 3}'),
    Finished("tool_calls", USAGE),
]


class Said:
    """Says what it is told to, keeps what it was asked, and never hurries past an `Event`."""

    def __init__(self, *steps: Delta | ExoError | asyncio.Event, tokens: int | ExoError = 3) -> None:
        self.steps: Sequence[Delta | ExoError | asyncio.Event] = steps
        self.asked: list[ChatRequest] = []
        self.left = asyncio.Event()
        self._tokens = tokens

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.asked.append(request)
        try:
            for step in self.steps:
                if isinstance(step, ExoError):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.left.set()

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        self.asked.append(request)
        if isinstance(self._tokens, ExoError):
            raise self._tokens
        return tuple(range(self._tokens))


def node(said: Said, *cards: ModelCard) -> Any:
    """What the desk is given: `said`, and the models it is asked for."""
    shown: Any = served(said, *cards)
    shown.tokens = said.tokens
    return shown


@asynccontextmanager
async def client_of(
    said: Said, settings: HttpSettings | None = None
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    desk = Desk(node(said, card("m"), card("n")), Metrics("0", ()), settings or HttpSettings(), lambda: None)

    async def models(http: web.Request) -> web.StreamResponse:
        assert wire.VERSION_HEADER in http.headers
        cards = await http.app[DESK].served.cards()
        return json_answer(wire.models_answer(cards))

    async def model(http: web.Request) -> web.StreamResponse:
        return json_answer(wire.model_answer(await http.app[DESK].served.card(http.match_info["id"])))

    listed = [web.get("/v1/models", models), web.get("/v1/models/{id}", model)]
    app = build(desk, anthropic_routes.routes(), listed)
    async with (
        TestServer(app, handler_cancellation=True) as server,
        anthropic.AsyncAnthropic(
            base_url=str(server.make_url("")), api_key="unused", max_retries=0, timeout=30
        ) as client,
    ):
        yield client


async def test_a_message() -> None:
    said = Said(Text("Hel"), Text("lo"), END)
    async with client_of(said) as client:
        message = await client.messages.create(model="m", max_tokens=50, messages=HI, system="Be brief.")
    assert message.id.startswith("msg_")
    assert (message.model, message.role, message.type) == ("m", "assistant", "message")
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello"}]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (5, 4)
    assert (message.usage.output_tokens, message.usage.cache_creation_input_tokens) == (5, 0)
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 2
    [asked] = said.asked
    assert asked.messages == (Message("system", "Be brief."), Message("user", "hi"))
    assert asked.sampling.max_tokens == 50
    assert asked.client == "127.0.0.1"


async def test_a_stream() -> None:
    async with (
        client_of(Said(Text("Hel"), Text("lo"), END)) as client,
        client.messages.stream(model="m", max_tokens=50, messages=HI) as stream,
    ):
        assert [piece async for piece in stream.text_stream] == ["Hel", "lo"]
        message = await stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (5, 5)


async def test_both_ways_give_the_same_message() -> None:
    said = Said(*CALLS)
    async with client_of(said) as client:
        whole = await client.messages.create(model="m", max_tokens=2000, messages=HI, thinking=THINKING)
        asking = client.messages.stream(model="m", max_tokens=2000, messages=HI, thinking=THINKING)
        async with asking as stream:
            streamed = await stream.get_final_message()
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in whole.content]
    assert (streamed.stop_reason, streamed.usage) == (whole.stop_reason, whole.usage)
    assert [(asked.thinking, asked.thinking_budget) for asked in said.asked] == [(True, 1024)] * 2


async def test_thoughts_and_calls_go_back_as_they_came() -> None:
    said = Said(*CALLS)
    async with client_of(said) as client:
        answer = await client.messages.create(model="m", max_tokens=50, messages=HI, tools=[ADD])
        results: Any = [
            {"type": "tool_result", "tool_use_id": "c1", "content": "2"},
            {"type": "tool_result", "tool_use_id": "c2", "content": "overflow", "is_error": True},
            {"type": "text", "text": "Go on."},
        ]
        turns = [*HI, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
        await client.messages.create(model="m", max_tokens=50, messages=turns, tools=[ADD])
    assert answer.stop_reason == "tool_use"
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert said.asked[1].messages[1:] == (
        Message(
            "assistant",
            "Let me see.",
            (ToolCall(0, "c1", "add", '{"a":2}'), ToolCall(1, "c2", "add", '{"a":3}')),
            reasoning="Hm.",
        ),
        Message("tool", "2", tool_call_id="c1"),
        Message("tool", "Error: overflow", tool_call_id="c2"),
        Message("user", "Go on."),
    )


async def test_arguments_come_in_pieces() -> None:
    async with client_of(Said(*CALLS)) as client:
        events = await client.messages.create(
            model="m", max_tokens=50, messages=HI, tools=[ADD], tool_choice={"type": "any"}, stream=True
        )
        pieces = [
            event.delta.partial_json
            async for event in events
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
    assert pieces == ['{"a"', ": 2}", '{"a": 3}']


async def test_a_form_for_the_answer() -> None:
    class Sum(BaseModel):
        sum: int

    said = Said(Text('{"sum": 5}'), END)
    async with client_of(said) as client:
        message = await client.messages.parse(model="m", max_tokens=50, messages=HI, output_format=Sum)
    assert message.parsed_output == Sum(sum=5)
    assert said.asked[0].json_schema is not None
    assert said.asked[0].json_schema["required"] == ["sum"]


async def test_the_clients_own_tool_runner() -> None:
    """It asks first for a conversation that the server keeps, and keeps it itself when told that none is."""

    @anthropic.beta_async_tool
    async def add(a: int) -> str:
        """Adds one."""
        return str(a + 1)

    said = Said(ToolCall(0, "c1", "add", '{"a": 2}'), Finished("tool_calls", USAGE))
    async with client_of(said) as client:
        runner = client.beta.messages.tool_runner(model="m", max_tokens=50, messages=HI, tools=[add])
        turns = []
        async for message in runner:
            turns.append(message.stop_reason)
            said.steps = (Text("It is 3."), END)
    assert turns == ["tool_use", "end_turn"]
    assert said.asked[1].messages[-1] == Message("tool", "3", tool_call_id="c1")


async def test_betas_of_agents() -> None:
    async with client_of(Said(Text("Hello"), END)) as client:
        message = await client.beta.messages.create(
            model="m",
            max_tokens=50,
            messages=HI,
            betas=["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
            context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            thinking={"type": "adaptive"},
            output_config={"effort": "low"},
            metadata={"user_id": "u"},
        )
    assert message.context_management is not None
    assert message.context_management.applied_edits == []


async def test_tokens_are_counted_without_an_answer() -> None:
    said = Said(tokens=17)
    async with client_of(said) as client:
        counted = await client.messages.count_tokens(model="m", messages=HI, system="Be brief.", tools=[ADD])
    assert counted.input_tokens == 17
    assert (said.asked[0].model, len(said.asked[0].messages), len(said.asked[0].tools)) == ("m", 2, 1)


async def test_models() -> None:
    async with client_of(Said()) as client:
        assert [model.id async for model in client.models.list(limit=1)] == ["m", "n"]
        one = await client.models.retrieve("n")
    assert (one.id, one.display_name, one.max_input_tokens) == ("n", "n", 4096)


# What goes wrong


async def refused(said: Said, **keys: Any) -> anthropic.APIStatusError:
    asked: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": HI, **keys}
    async with client_of(said) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(**asked)
    assert isinstance(caught.value.body, dict)
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "status", "type"),
    [
        (BadRequest("x"), anthropic.BadRequestError, 400, "invalid_request_error"),
        (Overloaded("x", retry_after=7), anthropic.RateLimitError, 429, "rate_limit_error"),
        (EngineFailed("x"), anthropic.InternalServerError, 502, "api_error"),
        (NotReady("x"), anthropic.APIStatusError, 503, "overloaded_error"),
    ],
)
async def test_a_failure_before_the_first_word_is_a_status(
    error: ExoError, kind: type[anthropic.APIStatusError], status: int, type: str, stream: bool
) -> None:
    caught = await refused(Said(error), stream=stream)
    assert isinstance(caught, kind)
    assert (caught.status_code, caught.type, caught.api_message) == (status, type, "x")
    assert caught.response.headers.get("retry-after") == ("7" if status == 429 else None)


async def test_a_model_that_is_not_here() -> None:
    caught = await refused(Said(), model="claude")
    assert isinstance(caught, anthropic.NotFoundError)
    assert caught.type == "not_found_error"
    assert "claude" in (caught.api_message or "")


async def test_a_request_that_cannot_be() -> None:
    caught = await refused(Said(), extra_body={"max_token": 5})
    assert caught.type == "invalid_request_error"
    assert 'did you mean "max_tokens"' in (caught.api_message or "")


async def test_a_prompt_that_is_too_long() -> None:
    caught = await refused(Said(ContextLengthExceeded("5000 tokens, and 4096 fit")))
    assert (caught.status_code, caught.api_message) == (400, "prompt is too long: 5000 tokens, and 4096 fit")


async def test_a_failure_in_the_middle_is_an_event() -> None:
    async with client_of(Said(Text("so "), EngineFailed("the wheel came off"))) as client:
        events = await client.messages.create(model="m", max_tokens=50, messages=HI, stream=True)
        seen = []
        with pytest.raises(anthropic.APIStatusError) as caught:
            seen += [event.type async for event in events]
    assert caught.value.type == "api_error"
    assert caught.value.api_message == "the wheel came off"


async def test_a_broken_call_is_a_failure_in_the_middle() -> None:
    said = Said(Text("so "), ToolCall(0, "c1", "add", "{"), Finished("tool_calls", USAGE))
    async with client_of(said) as client:
        events = await client.messages.create(model="m", max_tokens=50, messages=HI, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="broken arguments"):
            assert [event async for event in events][-1].type != "message_stop"
    assert (await refused(said)).status_code == 502


async def test_a_count_that_fails() -> None:
    async with client_of(Said(tokens=NotReady("no memory"))) as client:
        with pytest.raises(anthropic.APIStatusError, match="no memory") as caught:
            await client.messages.count_tokens(model="m", messages=HI)
    assert caught.value.type == "overloaded_error"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batches"])
async def test_any_failure_under_these_paths_looks_like_anthropics(path: str) -> None:
    async with client_of(Said()) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.get(path, cast_to=object)
    assert caught.value.type in ("invalid_request_error", "not_found_error")


async def test_a_silence_is_filled_with_pings() -> None:
    go_on = asyncio.Event()
    said = Said(Text("so "), go_on, Text("long"), END)
    async with client_of(said, HttpSettings(keepalive=0.01)) as client:
        response = await client.messages.with_raw_response.create(
            model="m", max_tokens=50, messages=HI, stream=True
        )
        lines = response.http_response.aiter_lines()
        async for line in lines:
            if line == "event: ping":
                go_on.set()
                break
        rest = [line async for line in lines]
    assert "event: message_stop" in rest
    assert json.loads(rest[0].removeprefix("data: ")) == {"type": "ping"}


async def test_a_client_that_leaves_ends_the_answer() -> None:
    said = Said(Text("so "), asyncio.Event())
    async with client_of(said) as client:
        events = await client.messages.create(model="m", max_tokens=50, messages=HI, stream=True)
        async for event in events:
            if event.type == "content_block_delta":
                break
        await events.close()
        async with asyncio.timeout(10):
            await said.left.wait()
