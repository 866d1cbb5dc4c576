"""The chat template, literally: what an engine feeds the model is fixed here."""

from typing import Any

import pytest

from demo.template import render

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "What is 5 + 8?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "<é> & 'x'"}}


def answer(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def test_a_question_leaves_the_thinking_to_the_model() -> None:
    assert render([SYSTEM, QUESTION], answering=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 5 + 8?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_thinking_the_answer_starts_after_an_empty_thought() -> None:
    text = render([QUESTION], answering=True, thinking=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_the_last_answer_carries_its_thought() -> None:
    thought = answer("5 + 8 = 13", reasoning_content="5+8=13")
    assert render([QUESTION, thought], answering=False).endswith(
        "<|im_start|>assistant\n<think>\n5+8=13\n</think>\n\n5 + 8 = 13<|im_end|>\n"
    )


def test_the_last_answer_without_a_thought_has_an_empty_one() -> None:
    assert render([QUESTION, answer("13")], answering=False).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n13<|im_end|>\n"
    )


@pytest.mark.parametrize(
    "earlier",
    [
        answer("13", reasoning_content="5+8=13"),
        answer("<think>\n5+8=13\n</think>\n\n13"),
        answer("13"),
    ],
)
def test_earlier_thoughts_are_dropped(earlier: dict[str, Any]) -> None:
    assert render([QUESTION, earlier, QUESTION], answering=True) == (
        "<|im_start|>user\nWhat is 5 + 8?<|im_end|>\n"
        "<|im_start|>assistant\n13<|im_end|>\n"
        "<|im_start|>user\nWhat is 5 + 8?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_join_the_system_message_unescaped() -> None:
    assert render([SYSTEM, QUESTION], tools=[TOOL], answering=False) == (
        "<|im_start|>system\nBe brief.\n\nYou can call these functions:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "<é> & \'x\'"}}\n'
        "</tools>\nTo call one, answer with its name and arguments as JSON:\n"
        '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nWhat is 5 + 8?<|im_end|>\n"
    )


def test_tools_without_a_system_message_make_one() -> None:
    text = render([QUESTION], tools=[TOOL], answering=False)
    assert text.startswith("<|im_start|>system\nYou can call these functions:\n")


def test_a_thought_is_kept_until_its_call_is_answered() -> None:
    call = {**CALL, "reasoning_content": "I can call weather."}
    results = [{"role": "tool", "content": "4 C"}, {"role": "tool", "content": "rain"}]
    assert render([QUESTION, call, *results], answering=True) == (
        "<|im_start|>user\nWhat is 5 + 8?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nI can call weather.\n</think>\n\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n4 C\n</tool_response>\n"
        "<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_several_calls_and_arguments_that_are_text_already() -> None:
    function = {"name": "clock", "arguments": '{"a": 1}'}
    message = answer("Well.", tool_calls=[{"function": function}, {"function": function}])
    assert (
        render([QUESTION, message, QUESTION], answering=False).count(
            '\n<tool_call>\n{"name": "clock", "arguments": {"a": 1}}\n</tool_call>'
        )
        == 2
    )


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "5 + 8?"}]
    split = {"role": "user", "content": parts}
    assert render([split], answering=True) == render([QUESTION], answering=True)
