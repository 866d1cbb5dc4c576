"""The official `openai` client's Responses over a node that is no node: it is understood, and gets what it
expects."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import openai
import pydantic
import pytest
from aiohttp.test_utils import TestServer
from openai.types.responses import Response, ResponseReasoningItem

from exo.chat import (
    Alternative,
    ChatRequest,
    Delta,
    Finished,
    Message,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
)
from exo.engines.scripted import Fail, Hang, Script, ScriptedModel
from exo.errors import ModelNotFound, Overloaded
from exo.http import openai_routes, responses_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.kept_responses import KeptResponses
from exo.metrics import Metrics
from exo.settings import HttpSettings
from tests.doubles import card, served

ADD = {
    "type": "function",
    "name": "add",
    "description": "Adds numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": True,
}
CALLS = (
    ToolCall(0, "call_1", "add"),
    ToolCall(0, arguments='{"a":'),
    ToolCall(0, arguments="2}"),
    ToolCall(1, "call_2", "add", '{"a":3}'),
)
THOUGHTFUL = (Reasoning("Let "), Reasoning("me see."), Text("4"), Text("2"))


class Model:
    """Plays its scripts, one an answer, the last one again and again, and keeps what was asked."""

    def __init__(self, *scripts: tuple[Any, ...]) -> None:
        self._models = [ScriptedModel(Script(steps=steps)) for steps in scripts]
        self.asked: list[ChatRequest] = []

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        model = self._models.pop(0) if len(self._models) > 1 else self._models[0]
        self.asked.append(request)
        async with aclosing(model.respond(request)) as deltas:
            async for delta in deltas:
                yield delta

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.asked[-1].messages


@asynccontextmanager
async def client_of(model: Any, kept: KeptResponses | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    desk = Desk(served(model, card("m")), Metrics("0", ()), HttpSettings(keepalive=0.05), lambda: None)
    kept = KeptResponses() if kept is None else kept
    app = build(desk, openai_routes.routes(), responses_routes.routes(kept))
    async with TestServer(app, handler_cancellation=True) as server:
        url = str(server.make_url("/v1"))
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            yield client


async def streamed(client: openai.AsyncOpenAI, **keys: Any) -> list[Any]:
    stream = await client.responses.create(stream=True, **{"model": "m", "input": "hi", **keys})
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


async def both(model: Model, **keys: Any) -> Response:
    """The whole answer, which has to be that of a stream, too, as the client itself puts that together."""
    async with client_of(model) as client:
        whole = await client.responses.create(**{"model": "m", "input": "hi", **keys})
        events = await streamed(client, **keys)
    ids = {whole.id.removeprefix("resp_"): "x", events[-1].response.id.removeprefix("resp_"): "x"}
    assert plain(whole, ids) == plain(events[-1].response, ids)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert sorted(map(plain, done), key=str) == sorted(map(plain, events[-1].response.output), key=str)
    assert isinstance(whole, Response)
    return whole


def plain(value: pydantic.BaseModel, ids: dict[str, str] | None = None) -> Any:
    text = value.model_dump_json(exclude={"created_at"}, warnings="error")
    for id, shown in (ids or {}).items():
        text = text.replace(id, shown)
    return json.loads(text)


# Answers


async def test_a_response() -> None:
    async with client_of(Model((Text("Hello"), Text(", wörld!")))) as client:
        answer = await client.responses.create(
            model="m", input="hi there", instructions="Be nice.", metadata={"a": "b"}, temperature=0.5
        )
    assert answer.output_text == "Hello, wörld!"
    assert (answer.object, answer.status, answer.model, answer.error) == ("response", "completed", "m", None)
    assert (answer.instructions, answer.metadata, answer.temperature) == ("Be nice.", {"a": "b"}, 0.5)
    assert (answer.tools, answer.tool_choice, answer.parallel_tool_calls) == ([], "auto", True)
    assert answer.created_at > 1_600_000_000
    [message] = answer.output
    assert message.type == "message"
    assert answer.id.startswith("resp_")
    assert message.id.startswith("msg_")
    assert (message.role, message.status) == ("assistant", "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (4, 2, 6)
    assert answer.usage.input_tokens_details.cached_tokens == 0
    assert answer.usage.output_tokens_details.reasoning_tokens == 0


async def test_what_the_client_gets_is_what_its_types_say() -> None:
    """It builds them without a look, so here they are looked at."""
    async with client_of(Model((*THOUGHTFUL, *CALLS))) as client:
        answer = await client.responses.create(model="m", input="hi", tools=[ADD])  # type: ignore[list-item]
        Response.model_validate(answer.model_dump(by_alias=True))
        for event in await streamed(client, tools=[ADD]):
            type(event).model_validate(event.model_dump(by_alias=True))


async def test_a_stream_has_the_events_of_openai() -> None:
    async with client_of(Model((Reasoning("Hm."), Text("4"), Text("2"), *CALLS[:3]))) as client:
        events = await streamed(client, tools=[ADD])
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert events[0].response.output == []
    assert {event.response.id for event in events if "response" in event.model_fields_set} == {
        events[-1].response.id
    }
    assert [event.delta for event in events if event.type.endswith(".delta")] == [
        "Hm.",
        "4",
        "2",
        '{"a":',
        "2}",
    ]
    by_item: dict[str, set[int]] = {}
    for event in events[2:-1]:
        id = event.item.id if "item" in event.model_fields_set else event.item_id
        by_item.setdefault(id, set()).add(event.output_index)
    assert [id.split("_")[0] for id in by_item] == ["rs", "msg", "fc"]
    assert [*by_item.values()] == [{0}, {1}, {2}]


async def test_a_stream_on_the_wire() -> None:
    async with (
        client_of(Model((Text("a\nb"),))) as client,
        client.responses.with_streaming_response.create(model="m", input="hi", stream=True) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        blocks = (await answer.read()).decode().split("\n\n")
    assert blocks.pop() == ""
    for block in blocks:
        event, data = block.split("\n")
        assert data.startswith("data: {")
        assert event == "event: " + json.loads(data.removeprefix("data: "))["type"]


async def test_the_clients_own_accumulator_reads_it() -> None:
    async with (
        client_of(Model((*THOUGHTFUL, *CALLS))) as client,
        client.responses.stream(model="m", input="hi", tools=[ADD]) as stream,  # type: ignore[list-item]
    ):
        whole = await stream.get_final_response()
    assert whole.output_text == "42"
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]


async def test_thoughts_are_items_of_their_own() -> None:
    answer = await both(Model(THOUGHTFUL))
    assert answer.output_text == "42"
    thought, _ = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.content is not None
    assert [part.text for part in thought.content] == ["Let me see."]
    assert (thought.summary, thought.id[:3]) == ([], "rs_")
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens == 2


async def test_thoughts_are_the_summary_where_one_is_asked_for() -> None:
    keys = {"reasoning": {"effort": "low", "summary": "auto"}}
    answer = await both(Model(THOUGHTFUL), **keys)
    thought, _ = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert [part.text for part in thought.summary] == ["Let me see."]
    assert thought.content is None
    async with client_of(Model(THOUGHTFUL)) as client:
        events = await streamed(client, **keys)
    ours = [event.type.removeprefix("response.") for event in events if "summary" in event.type]
    assert ours == [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]


async def test_pieces_of_calls_that_come_in_turn_are_put_together() -> None:
    mixed = (CALLS[0], CALLS[3], CALLS[1], CALLS[2])
    answer = await both(Model(mixed), tools=[ADD])
    called = [(item.call_id, item.arguments) for item in answer.output if item.type == "function_call"]
    assert called == [("call_1", '{"a":2}'), ("call_2", '{"a":3}')]


async def test_an_answer_that_says_nothing_is_an_empty_message() -> None:
    answer = await both(Model(()))
    [message] = answer.output
    assert message.type == "message"
    assert answer.output_text == ""


async def test_an_answer_that_is_cut_is_incomplete() -> None:
    answer = await both(Model(THOUGHTFUL), max_output_tokens=3)
    assert (answer.status, answer.output_text) == ("incomplete", "4")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert [plain(item)["status"] for item in answer.output] == ["completed", "incomplete"]


async def test_probabilities_come_where_they_are_included() -> None:
    token = TokenLogprob(Alternative("A", -0.5, (65,)), (Alternative("B", -1.0, (66,)),))
    model = Model((Text("A", (token,)), Finished("stop", Usage(1, 1))))
    answer = await both(model, include=["message.output_text.logprobs"], top_logprobs=1)
    assert model.asked[0].logprobs == 1
    [message] = answer.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert [(each.token, each.logprob, each.bytes) for each in part.logprobs] == [("A", -0.5, [65])]
    assert [(each.token, each.logprob) for each in part.logprobs[0].top_logprobs] == [("B", -1.0)]
    async with client_of(model) as client:
        events = await streamed(client, include=["message.output_text.logprobs"])
    [delta] = [event for event in events if event.type == "response.output_text.delta"]
    assert delta.logprobs[0].token == "A"


async def test_a_schema_is_parsed_into_what_it_was_made_of() -> None:
    class Sum(pydantic.BaseModel):
        sum: int

    model = Model((Text('{"sum":'), Text("47}")))
    async with client_of(model) as client:
        parsed = await client.responses.parse(model="m", input="12 + 35", text_format=Sum)
        async with client.responses.stream(model="m", input="12 + 35", text_format=Sum) as stream:
            by_stream = await stream.get_final_response()
    assert parsed.output_parsed == by_stream.output_parsed == Sum(sum=47)
    assert model.asked[0].json_schema is not None
    assert model.asked[0].json_schema["required"] == ["sum"]


async def test_a_long_silence_is_filled_with_comments_the_client_does_not_see() -> None:
    async with (
        client_of(Model((Text("so far"), Hang()))) as client,
        client.responses.with_streaming_response.create(model="m", input="hi", stream=True) as answer,
    ):
        async for line in answer.iter_lines():
            if line == ": keep-alive":
                break


# Conversations


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_over_two_turns_by_the_kept_response(stream: bool) -> None:
    model = Model((Reasoning("Hm."), *CALLS), (Text("5"),))
    async with client_of(model) as client:
        keys: dict[str, Any] = {"model": "m", "tools": [ADD]}
        async with client.responses.stream(input="2 + 3", instructions="Add.", **keys) as events:
            first = await events.get_final_response()
        calls = [item for item in first.output if item.type == "function_call"]
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": call.call_id, "output": call.arguments}
            for call in calls
        ]
        keys |= {"input": outputs, "previous_response_id": first.id}
        if stream:
            async with client.responses.stream(**keys) as events:
                second: Response = await events.get_final_response()
        else:
            second = await client.responses.create(**keys)
        again = await client.responses.create(model="m", input="sure?", previous_response_id=second.id)
    assert (second.output_text, second.previous_response_id) == ("5", first.id)
    assert model.asked[0].messages == (Message("system", "Add."), Message("user", "2 + 3"))
    turn = (
        Message("user", "2 + 3"),
        Message(
            "assistant",
            "",
            (ToolCall(0, "call_1", "add", '{"a":2}'), ToolCall(1, "call_2", "add", '{"a":3}')),
            reasoning="Hm.",
        ),
        Message("tool", '{"a":2}', tool_call_id="call_1"),
        Message("tool", '{"a":3}', tool_call_id="call_2"),
    )
    assert model.asked[1].messages == turn, "instructions are not carried over"
    assert model.asked[2].messages == (*turn, Message("assistant", "5"), Message("user", "sure?"))
    assert again.previous_response_id == second.id


@pytest.mark.parametrize("summary", [None, "detailed"])
async def test_tools_over_two_turns_with_the_output_given_back(summary: str | None) -> None:
    """As agents do that keep nothing on a server, with the very objects the client gave them."""
    model = Model((Reasoning("Hm."), *CALLS[:3]), (Text("5"),))
    async with client_of(model) as client:
        sent: list[Any] = [{"role": "user", "content": "2 + 3"}]
        keys: dict[str, Any] = {
            "model": "m",
            "tools": [ADD],
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"summary": summary},
        }
        first = await client.responses.parse(input=sent, **keys)
        sent += first.output
        sent.append({"type": "function_call_output", "call_id": "call_1", "output": "5"})
        second = await client.responses.create(input=sent, **keys)
        sent += [item.model_dump() for item in second.output]
        await client.responses.create(input=[*sent, {"role": "user", "content": "sure?"}], **keys)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)
    assert model.messages == (
        Message("user", "2 + 3"),
        Message("assistant", "", (ToolCall(0, "call_1", "add", '{"a":2}'),), reasoning="Hm."),
        Message("tool", "5", tool_call_id="call_1"),
        Message("assistant", "5"),
        Message("user", "sure?"),
    )


async def test_items_are_referred_to_by_their_ids() -> None:
    model = Model((*THOUGHTFUL,))
    async with client_of(model) as client:
        first = await client.responses.create(model="m", input="6 * 7")
        references: list[Any] = [{"type": "item_reference", "id": item.id} for item in first.output]
        [asked] = (await client.responses.input_items.list(first.id)).data
        references.insert(0, {"id": asked.id})
        await client.responses.create(model="m", input=[*references, {"role": "user", "content": "sure?"}])
        assert model.messages == (
            Message("user", "6 * 7"),
            Message("assistant", "42", reasoning="Let me see."),
            Message("user", "sure?"),
        )
        for id, why in [
            ("msg_1", "no id of this server"),
            (f"msg_{'0' * 32}_0", "not kept"),
            (f"{first.output[0].id}0", "no item"),
        ]:
            with pytest.raises(openai.BadRequestError, match=why) as caught:
                await client.responses.create(model="m", input=[{"type": "item_reference", "id": str(id)}])
            assert caught.value.param == "input[0].id"
        twice: list[Any] = [{"id": asked.id}, {"id": asked.id}]
        with pytest.raises(openai.BadRequestError, match="referred to before") as caught:
            await client.responses.create(model="m", input=twice)
        assert caught.value.param == "input[1].id"


async def test_a_kept_response_is_read_and_deleted() -> None:
    async with client_of(Model((Text("Hello"),))) as client:
        first = await client.responses.create(model="m", input="hi")
        events = await streamed(client)
        assert await client.responses.retrieve(first.id) == first
        kept = await client.responses.retrieve(
            events[-1].response.id, include=["reasoning.encrypted_content"]
        )
        assert kept == events[-1].response
        await client.responses.delete(first.id)
        for gone in (client.responses.retrieve(first.id), client.responses.delete(first.id)):
            with pytest.raises(openai.NotFoundError, match=first.id) as caught:
                await gone
            assert (caught.value.code, caught.value.type) == ("not_found", "invalid_request_error")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(kept.id)
        with pytest.raises(openai.BadRequestError, match="stream"):
            await client.responses.retrieve(kept.id, stream=True)


async def test_what_was_deleted_is_still_in_the_conversations_that_went_on_from_it() -> None:
    model = Model((Text("Hello"),))
    async with client_of(model) as client:
        first = await client.responses.create(model="m", input="a")
        second = await client.responses.create(model="m", input="b", previous_response_id=first.id)
        await client.responses.delete(first.id)
        await client.responses.create(model="m", input="c", previous_response_id=second.id)
    assert [message.content for message in model.messages] == ["a", "Hello", "b", "Hello", "c"]


async def test_input_items_are_the_conversation_by_pages() -> None:
    async with client_of(Model((Text("Hello"),))) as client:
        first = await client.responses.create(model="m", input="a")
        second = await client.responses.create(
            model="m",
            previous_response_id=first.id,
            input=[{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
        )
        page = await client.responses.input_items.list(second.id, order="asc", limit=3)
        assert [plain(item)["content"][0]["text"] for item in page.data] == ["a", "Hello", "b"]
        assert [item.type for item in page.data] == ["message"] * 3
        rest = await page.get_next_page()
        assert [plain(item)["content"][0]["text"] for item in rest.data] == ["c"]
        assert not rest.has_next_page()
        backwards = [item async for item in client.responses.input_items.list(second.id)]
        assert backwards == [*page.data, *rest.data][::-1]
        for keys in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "x"}):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.input_items.list(second.id, **keys)
            assert caught.value.param == next(iter(keys))
        with pytest.raises(openai.NotFoundError):
            await client.responses.input_items.list("resp_x")
        with pytest.raises(openai.BadRequestError, match="unknown parameter"):
            await client.responses.retrieve(second.id, extra_query={"a": "b"})


@pytest.mark.parametrize("stream", [False, True])
async def test_going_on_from_what_is_forgotten_says_so(stream: bool) -> None:
    model = Model((Text("Hello"),))
    async with client_of(model, KeptResponses(most=1)) as client:
        first = await client.responses.create(model="m", input="a")
        await client.responses.create(model="m", input="b")
        with pytest.raises(openai.NotFoundError, match=r"the last 1 .* store: false") as caught:
            await client.responses.create(model="m", input="c", previous_response_id=first.id, stream=stream)
        assert caught.value.param == "previous_response_id"
    assert len(model.asked) == 2


# Failures


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_word_is_a_status(stream: bool) -> None:
    kept = KeptResponses()
    async with client_of(Model((Fail("the wheel came off"),)), kept) as client:
        with pytest.raises(openai.InternalServerError, match="the wheel came off") as caught:
            await client.responses.create(model="m", input="hi", stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "engine_failed")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.responses.create(model="x", input="hi", stream=stream)
        assert missing.value.code == ModelNotFound.code
    assert len(kept) == 0


async def test_a_failure_in_the_middle_of_a_stream_is_no_completed_response() -> None:
    kept = KeptResponses()
    async with client_of(Model((*THOUGHTFUL, Fail("the wheel came off"))), kept) as client:
        events = await streamed(client)
        *_, error, failed = events
        assert (error.type, error.code, error.message) == ("error", "engine_failed", "the wheel came off")
        assert (failed.type, failed.response.status) == ("response.failed", "failed")
        assert (failed.response.error.code, failed.response.error.message) == (
            "server_error",
            "the wheel came off",
        )
        assert [plain(item)["status"] for item in failed.response.output] == ["completed", "incomplete"]
        assert failed.response.output_text == "42"
        async with client.responses.stream(model="m", input="hi") as stream:
            with pytest.raises(RuntimeError, match=r"response\.completed"):
                await stream.get_final_response()
        with pytest.raises(openai.InternalServerError, match="the wheel came off"):
            await client.responses.create(model="m", input="hi")
    assert len(kept) == 0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("context_length_exceeded", "context_length_exceeded"),
        ("overloaded", "rate_limit_exceeded"),
        ("bad_request", "invalid_prompt"),
        ("timeout", "server_error"),
    ],
)
async def test_a_failed_response_has_a_code_that_agents_know(code: str, told: str) -> None:
    async with client_of(Model((Text("so far"), Fail("no", code)))) as client:
        *_, error, failed = await streamed(client)
    assert (error.code, failed.response.error.code) == (code, told)


async def test_an_answer_that_never_finishes_has_failed() -> None:
    class Endless:
        async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
            yield Text("so far")

    kept = KeptResponses()
    async with client_of(Endless(), kept) as client:
        *_, failed = await streamed(client)
        assert failed.type == "response.failed"
        with pytest.raises(openai.InternalServerError, match="without a finish"):
            await client.responses.create(model="m", input="hi")
    assert len(kept) == 0


async def test_a_full_node_says_when_to_come_back() -> None:
    class Full:
        async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
            raise Overloaded("full", retry_after=3)
            yield

    async with client_of(Full()) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.responses.create(model="m", input="hi")
        assert caught.value.response.headers["retry-after"] == "3"


async def test_the_same_paths_without_a_version() -> None:
    async with client_of(Model((Text("Hello"),))) as client:
        bare = client.with_options(base_url=str(client.base_url).removesuffix("v1/"))
        answer = await bare.responses.create(model="m", input="hi")
        assert await client.responses.retrieve(answer.id) == answer
