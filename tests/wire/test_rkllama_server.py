"""The original NPU server's dialect, the server's side: what is understood, and what is said."""

import json
from itertools import count
from typing import Any

import pytest

from exo.chat import (
    ChatRequest,
    Delta,
    Finished,
    Message,
    Reasoning,
    Sampling,
    Text,
    Timings,
    ToolCall,
    Usage,
)
from exo.errors import BadRequest, EngineFailed, NotReady
from exo.wire import rkllama

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
END = Finished("stop", Usage(7, 3))


def decoded(**body: Any) -> ChatRequest:
    return rkllama.decode_generate(json.dumps({**HELLO, **body}).encode(), id="r1").request


def test_a_conversation_is_read_whole() -> None:
    messages = (
        Message("system", "Be short."),
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", ""),
    )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    assert decoded(messages=turns) == ChatRequest(id="r1", model="", messages=messages)


def test_a_plain_text_is_what_the_user_says() -> None:
    assert decoded(messages="Hello").messages == (Message("user", "Hello"),)


@pytest.mark.parametrize(
    ("sent", "streams"), [({"stream": True}, True), ({"stream": False}, False), ({}, False)]
)
def test_an_answer_is_streamed_on_request_only(sent: dict[str, bool], streams: bool) -> None:
    assert rkllama.decode_generate(json.dumps({**HELLO, **sent}).encode(), id="").stream is streams


def test_sampling_is_heeded() -> None:
    request = decoded(
        temperature=0,
        top_k=1,
        top_p=0.5,
        min_p=0.1,
        repeat_penalty=1.1,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=5,
        max_new_tokens=9,
        stop="x",
        enable_thinking=False,
    )
    assert request.sampling == Sampling(
        temperature=0,
        top_k=1,
        top_p=0.5,
        min_p=0.1,
        repeat_penalty=1.1,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=5,
        max_tokens=9,
    )
    assert request.stop == ("x",)
    assert request.thinking is False


def test_both_names_of_the_length_may_agree() -> None:
    assert decoded(max_tokens=4, max_new_tokens=4).sampling.max_tokens == 4


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 4, "max_new_tokens": 5}, "max_new_tokens"),
        ({"temperatur": 1}, "temperatur"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": ""}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"model": "m"}, "model"),
        ({"format": "json"}, "format"),
        ({"stream": 1}, "stream"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decoded(**body)
    assert refused.value.param == param


def test_a_model_in_the_body_is_told_where_to_go() -> None:
    with pytest.raises(BadRequest, match="POST /load_model"):
        decoded(model="m")


def test_loading_names_a_model_and_may_describe_it() -> None:
    assert rkllama.decode_load_model(b'{"model_name": "m"}') == rkllama.LoadCall("m", described=False)
    described = b'{"model_name": "m", "from": "m.rkllm", "huggingface_path": "user/repository"}'
    assert rkllama.decode_load_model(described) == rkllama.LoadCall("m", described=True)


@pytest.mark.parametrize(("given", "missing"), [("from", "huggingface_path"), ("huggingface_path", "from")])
def test_half_a_description_is_refused(given: str, missing: str) -> None:
    with pytest.raises(BadRequest) as refused:
        rkllama.decode_load_model(json.dumps({"model_name": "m", given: "x"}).encode())
    assert refused.value.param == missing


def test_unloading_needs_no_body() -> None:
    assert rkllama.decode_unload_model(b"") is None
    assert rkllama.decode_unload_model(b"{}") is None
    assert rkllama.decode_unload_model(b'{"model_name": "m"}') == "m"


def test_pull_and_rm_name_a_model() -> None:
    assert rkllama.decode_pull(b'{"model": "user/repository/file"}') == "user/repository/file"
    assert rkllama.decode_rm(b'{"model": "m"}') == "m"
    for decode in (rkllama.decode_pull, rkllama.decode_rm):
        with pytest.raises(BadRequest, match="model is required"):
            decode(b"{}")


# Answers


def streamed(*deltas: Delta) -> list[dict[str, Any]]:
    """The objects of a stream, of which each second one takes a second."""
    stream = rkllama.GenerateStream(1700000000, iter(count()).__next__)
    sent = b"".join(
        [stream.start(0), *(stream.delta(0, delta) for delta in deltas), stream.end(Usage(prompt_tokens=7))]
    )
    objects = sent.decode().split("\n\n")
    assert objects.pop() == ""
    return [json.loads(text) for text in objects]


def said(objects: list[dict[str, Any]]) -> str:
    return "".join(each["choices"][0]["content"] for each in objects)


def test_a_stream_is_a_row_of_objects_with_the_new_text_in_each() -> None:
    first, second, last = streamed(Text("Hel"), Text('lo "you"\n\n'), END)
    assert first == {
        "created": 1700000000,
        "choices": [{"content": "Hel", "finish_reason": None, "role": "assistant", "logprobs": None}],
        "usage": {
            "prompt_tokens": None,
            "completion_tokens": None,
            "tokens_per_second": None,
            "total_tokens": None,
        },
        "id": "rkllm_chat",
        "object": "rkllm_chat",
    }
    assert second["choices"][0]["content"] == 'lo "you"\n\n'
    assert last["choices"][0] == {
        "content": "",
        "finish_reason": "stop",
        "role": "assistant",
        "logprobs": None,
    }
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "tokens_per_second": 3.0,
        "total_tokens": 10,
    }


def test_the_speed_is_the_engines_own_where_it_says() -> None:
    last = streamed(Text("x"), Finished("length", Usage(7, 30), Timings(1.0, 2.0)))[-1]
    assert last["usage"]["tokens_per_second"] == 15
    assert last["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([Reasoning("Hm"), Reasoning("."), Text("So"), Text("!"), END], "<think>Hm.</think>So!"),
        ([Reasoning("Hm"), Finished("length")], "<think>Hm</think>"),
        ([Text("So"), Reasoning("Hm"), Text("!"), END], "So<think>Hm</think>!"),
        ([END], ""),
    ],
)
def test_reasoning_stays_in_the_text(deltas: list[Delta], text: str) -> None:
    assert said(streamed(*deltas)) == text
    whole = json.loads(rkllama.generate_answer(0, deltas, 1.0))
    assert whole["choices"][0]["content"] == text


def test_a_whole_answer_is_one_such_object() -> None:
    whole = json.loads(rkllama.generate_answer(5, [Text("Hel"), Text("lo"), END], 2.0))
    assert (whole["object"], whole["created"]) == ("rkllm_chat", 5)
    assert whole["choices"][0]["content"] == "Hello"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["tokens_per_second"] == 1.5


def test_an_answer_without_an_end_is_none() -> None:
    with pytest.raises(EngineFailed):
        rkllama.generate_answer(0, [Text("Hel")], 1.0)


def test_a_failure_in_a_stream_has_nothing_that_looks_like_an_end() -> None:
    stream = rkllama.GenerateStream(0, lambda: 0.0)
    assert stream.failed(NotReady('the "NPU" is gone')) == b'{"error":"the \\"NPU\\" is gone"}\n\n'


def test_a_tool_call_is_not_lost_without_a_word() -> None:
    with pytest.raises(EngineFailed, match="'add'"):
        rkllama.GenerateStream(0, lambda: 0.0).delta(0, ToolCall(0, "1", "add"))


def test_an_error_may_quote_what_is_no_text() -> None:
    assert json.loads(rkllama.error_answer(NotReady("no \udcff.rkllm"))) == {"error": "no ?.rkllm"}
