"""Answers of the bundled model on llama.cpp, held to schemas at random: what says that it has ended is what
was asked for, and what was cut is the beginning of JSON."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from exo.chat import ChatRequest, Delta, Finished, JsonSchema, Message, Sampling, Text, Tool, ToolCall
from exo.engines.llamacpp import LlamaCppEngine, LlamaCppModel
from exo.store.catalogue import BUNDLED, Catalogue
from tests.doubles import answer, finished, text
from tests.generation.random_schemas import begins_json, schemas, tools

Ask: TypeAlias = Callable[..., list[Delta]]

# The same ones each time: whoever runs the tests is not to blame for a schema that llguidance gets wrong.
CASES = settings(max_examples=60, derandomize=True, database=None)
# Their prompts are long.
TOOL_CASES = settings(CASES, max_examples=25)
MOST = 1200
QUESTIONS = ("What is 14 + 27?", "Count from 1 to 40.", "Hello!", 'Say "}".')


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[Ask, int]]:
    """Asks the bundled model; and its token that begins a call."""
    card = Catalogue(BUNDLED)["exo-demo"][0]
    with asyncio.Runner() as runner:
        loaded = runner.run(LlamaCppEngine(slots=1).load(card, BUNDLED / "exo-demo" / "model.gguf"))
        assert isinstance(loaded, LlamaCppModel)

        def ask(question: str, seed: int, bias: dict[int, float] | None = None, **fields: Any) -> list[Delta]:
            request = ChatRequest(
                model=card.id,
                messages=(Message("user", question),),
                sampling=Sampling(temperature=1.0, seed=seed, max_tokens=MOST, logit_bias=bias or {}),
                **fields,
            )
            return runner.run(answer(loaded, request))

        try:
            [begins] = runner.run(loaded.tokens(ChatRequest(model=card.id, prompt="<tool_call>")))
            yield ask, begins
        finally:
            runner.run(loaded.unload())


def test_an_answer_that_ends_keeps_to_its_schema(model: tuple[Ask, int]) -> None:
    ask, _ = model
    ends: list[Finished] = []

    @CASES
    @given(schemas(), st.sampled_from(QUESTIONS), st.booleans(), st.integers(0, 1 << 31))
    def keeps(schema: JsonSchema, question: str, thinking: bool, seed: int) -> None:
        deltas = ask(question, seed, json_schema=schema, thinking=thinking)
        ends.append(finished(deltas))
        if ends[-1].reason == "length":
            assert begins_json(text(deltas))
        else:
            assert ends[-1].reason == "stop"
            Draft202012Validator(schema).validate(json.loads(text(deltas)))

    keeps()
    _few_are_cut(ends)


@pytest.mark.parametrize("thinking", [False, True])
def test_a_call_that_has_to_be_made_keeps_to_its_tool(model: tuple[Ask, int], thinking: bool) -> None:
    ask, _ = model
    _tools_are_called_right(partial(ask, thinking=thinking), must=True)


def test_a_call_that_the_model_begins_keeps_to_its_tool(model: tuple[Ask, int]) -> None:
    ask, begins = model
    # Likely enough that the model begins with it, and writes it within strings, too.
    _tools_are_called_right(partial(ask, thinking=False, bias={begins: 100.0}), must=False)


def _tools_are_called_right(ask: Ask, *, must: bool) -> None:
    ends: list[Finished] = []

    @TOOL_CASES
    @given(tools(), st.sampled_from(QUESTIONS), st.booleans(), st.integers(0, 1 << 31))
    def called(offered: tuple[Tool, ...], question: str, parallel: bool, seed: int) -> None:
        named = tuple(tool.name for tool in offered[:2]) if must else ()
        deltas = ask(question, seed, tools=offered, must_call=named, parallel_calls=parallel)
        ends.append(finished(deltas))
        assert ends[-1].reason in ("tool_calls", "length")
        assert not [delta for delta in deltas if isinstance(delta, Text)]
        calls = _calls(deltas)
        assert parallel or len(calls) <= 1
        schema_of = {tool.name: tool.parameters for tool in offered if not must or tool.name in named}
        for i, (name, arguments) in enumerate(calls):
            if ends[-1].reason == "length" and i == len(calls) - 1:
                assert begins_json(arguments)
            else:
                Draft202012Validator(schema_of[name]).validate(json.loads(arguments))

    called()
    _few_are_cut(ends)


def _calls(deltas: Sequence[Delta]) -> list[tuple[str, str]]:
    calls: dict[int, tuple[str, str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCall):
            name, arguments = calls.get(delta.index, ("", ""))
            calls[delta.index] = (name + delta.name, arguments + delta.arguments)
    return list(calls.values())


def _few_are_cut(ends: Sequence[Finished]) -> None:
    """Cases that are cut prove little."""
    assert len([end for end in ends if end.reason == "length"]) < 0.05 * len(ends)


@CASES
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=6,
    )
)
def test_what_json_was_cut_from_begins_json(value: Any) -> None:
    written = json.dumps(value)
    assert all(begins_json(written[:end]) for end in range(len(written) + 1))


WRONG = ("}", "{]", '{"a" 1', "tru3", "[1 2", "01", '{"a": 1} x', '"\\x', '"\\u00g', "[,", "'a'", "{1: 2}")


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_become_no_json_does_not_begin_it(wrong: str) -> None:
    assert not begins_json(wrong)
