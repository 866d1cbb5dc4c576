"""Responses as they are sent: whole and streamed they are the same, and what is kept can be gone on from."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type_unchecked
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from exo.chat import (
    Alternative,
    Delta,
    Finished,
    FinishReason,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
)
from exo.errors import BadRequest, EngineFailed
from exo.wire import responses
from exo.wire.responses import items

NAME = f"resp_{'a' * 32}"


def call_for(**keys: Any) -> responses.ResponseCall:
    def find(_: str) -> responses.KeptResponse:
        raise AssertionError("nothing to find")

    body = json.dumps({"model": "m", "input": "hi", **keys}).encode()
    return responses.decode_response(body, id="r", response=NAME, find=find)


def events_of(data: bytes) -> list[dict[str, Any]]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == "", "the stream ends in the middle of an event"
    events = []
    for block in blocks:
        named, data_line = block.split("\n")
        event = json.loads(data_line.removeprefix("data: "))
        assert named == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def stream(
    call: responses.ResponseCall, deltas: Sequence[Delta]
) -> tuple[list[dict[str, Any]], responses.KeptResponse]:
    kept: list[responses.KeptResponse] = []
    encoder = responses.ResponseStream(call, responses.begun(call, NAME, 1, "m"), kept.append)
    data = encoder.start(0) + b"".join(encoder.delta(0, delta) for delta in deltas)
    last = deltas[-1]
    assert isinstance(last, Finished)
    return events_of(data + encoder.end(last.usage)), kept[0]


def accumulated(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the official client makes of a stream."""
    state = ResponseStreamState[None](input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(construct_type_unchecked(type_=ResponseStreamEvent, value=event))  # type: ignore[arg-type]
    assert state._completed_response is not None
    return state._completed_response.model_dump(
        mode="json",
        exclude_unset=True,
        exclude={"output": {"__all__": {"parsed_arguments": True, "content": {"__all__": {"parsed"}}}}},
    )


LOGPROBS = (TokenLogprob(Alternative("x", -0.5, (120,)), (Alternative("y", float("-inf"), (121,)),)),)
texts = st.text(st.characters(codec="utf-8"), max_size=4)
usages = st.builds(Usage, st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
reasons: list[FinishReason] = ["stop", "length", "tool_calls"]


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    said: list[Delta] = []
    called: set[int] = set()
    for _ in range(draw(st.integers(0, 8))):
        match draw(st.sampled_from(["text", "thought", "call", "likely"])):
            case "text":
                said.append(Text(draw(texts)))
            case "thought":
                said.append(Reasoning(draw(texts)))
            case "likely":
                said.append(Text(draw(texts), LOGPROBS))
            case _:
                index = draw(st.integers(0, 2))
                first = index not in called
                called.add(index)
                name = (f"call_{index}", "add") if first else ("", "")
                said.append(ToolCall(index, *name, draw(texts)))
    return [*said, Finished(draw(st.sampled_from(reasons)), draw(usages))]


@given(answers(), st.booleans())
def test_an_answer_is_the_same_whole_and_streamed(deltas: list[Delta], summarised: bool) -> None:
    call = call_for(reasoning={"summary": "auto"} if summarised else None)
    whole = responses.response_answer(call, responses.begun(call, NAME, 1, "m"), deltas)
    Response.model_validate_json(whole.answer)
    events, kept = stream(call, deltas)
    assert kept == whole
    assert events[-1]["response"] == json.loads(whole.answer)
    if events[-1]["type"] == "response.completed":
        assert accumulated(events)["output"] == json.loads(whole.answer)["output"]


@given(answers())
def test_pieces_come_to_what_is_done(deltas: list[Delta]) -> None:
    events, _ = stream(call_for(), deltas)
    pieces: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            pieces[event["item_id"]] = pieces.get(event["item_id"], "") + event["delta"]
    done = {
        event["item_id"]: event.get("text", event.get("arguments"))
        for event in events
        if event["type"].endswith(("text.done", "arguments.done"))
    }
    assert {id: said for id, said in done.items() if said} == {
        id: said for id, said in pieces.items() if said
    }
    added = [event["output_index"] for event in events if event["type"].endswith("item.added")]
    ended = [event["output_index"] for event in events if event["type"].endswith("item.done")]
    assert added == sorted(ended) == list(range(len(added)))


@given(answers())
def test_what_is_kept_can_be_gone_on_from(deltas: list[Delta]) -> None:
    call = call_for()
    _, kept = stream(call, deltas)
    assert kept.turns[:-1] == call.turns
    said = list(items.messages(items.decode_items(kept.turns)))[1:]
    assert said, "there is a turn of the model"
    assert all(message.role == "assistant" for message in said)
    assert "".join(message.content for message in said) == "".join(
        delta.text for delta in deltas if isinstance(delta, Text)
    )
    assert "".join(message.reasoning for message in said) == "".join(
        delta.text for delta in deltas if isinstance(delta, Reasoning)
    )
    assert b'"logprob"' not in kept.turns[-1]


def test_usage_is_told_in_the_words_of_the_dialect() -> None:
    events, _ = stream(call_for(), [Text("a"), Finished("stop", Usage(9, 5, 2, 4))])
    assert events[-1]["response"]["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


def test_what_was_asked_is_repeated() -> None:
    add = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
    asked = {
        "instructions": "x",
        "max_output_tokens": 7,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "store": False,
        "temperature": 0.5,
        "tools": [add],
        "tool_choice": {"type": "function", "name": "add"},
        "top_p": 0.5,
        "user": "u",
    }
    call = call_for(**asked, reasoning={"effort": "low", "summary": "auto"})
    answer = json.loads(responses.response_answer(call, responses.begun(call, NAME, 1, "m"), [END]).answer)
    assert {key: answer[key] for key in asked} == asked
    assert answer["reasoning"] == {"effort": "low", "summary": "auto"}
    assert answer["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "array"}, "strict": True}
    call = call_for(text={"format": schema})
    assert json.loads(responses.response_answer(call, responses.begun(call, NAME, 1, "m"), [END]).answer)[
        "text"
    ] == {"format": schema, "verbosity": "medium"}


END = Finished("stop")


def test_without_an_end_there_is_no_response() -> None:
    call = call_for()
    with pytest.raises(EngineFailed, match="without a finish"):
        responses.response_answer(call, responses.begun(call, NAME, 1, "m"), [Text("a")])


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(["asc", "desc"]))
def test_pages_of_items_come_to_all_of_them(count: int, limit: int, order: str) -> None:
    call = call_for(input=[{"role": "user", "content": str(i)} for i in range(count)])
    kept = responses.KeptResponse(b"", (*call.turns, b"[]"))
    seen: list[str] = []
    after = ""
    while True:
        page = json.loads(responses.items_answer(kept, after=after, limit=limit, order=order))
        assert len(page["data"]) <= limit
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [item["content"][0]["text"] for item in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    numbers = [int(each) for each in seen]
    assert len(numbers) == count
    assert all((a < b) is (order == "asc") for a, b in pairwise(numbers))
    with pytest.raises(BadRequest, match="no item"):
        responses.items_answer(kept, after="msg_x")
