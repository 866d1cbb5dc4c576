"""Answers over an engine that says what the test has written down, whatever grammar it is given."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from exo.chat import (
    ChatRequest,
    Delta,
    Finished,
    Message,
    Reasoning,
    Sampling,
    SoFar,
    Text,
    Timings,
    Tool,
    ToolCall,
    Usage,
)
from exo.errors import BadRequest
from exo.generation.templates import ChatTemplate
from exo.generation.writing import Ended, Piece, Run, answer
from exo.text.calls import HERMES, LLAMA

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}:{% if tools %}{% endif %}"
SWITCHED = PLAIN + "{% if enable_thinking is false %}<think></think>{% endif %}"
ALWAYS = PLAIN + "<think>{{ '\\n' }}"
LIKE_LLAMA = PLAIN + "{# <|python_tag|> #}"
CITY = Tool("weather", "", {"properties": {"city": {"type": "string"}}, "required": ["city"]})
TIME = Tool("time", "")
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}}


class Told:
    """An engine that has one text for each run, and gives it a character at a time."""

    def __init__(self, *texts: str, cut: bool = False) -> None:
        self.texts, self.cut = list(texts), cut
        self.runs: list[Run] = []
        self.given: list[str] = []

    async def __call__(
        self, request: ChatRequest, run: Run, enough: Callable[[], bool]
    ) -> AsyncGenerator[Piece | Ended, None]:
        self.runs.append(run)
        text, given = self.texts.pop(0), ""
        for character in text[: run.limit]:
            given += character
            yield Piece(character)
            if enough():
                break
        self.given.append(given)
        usage = Usage(len(run.prompt), len(given), cached_tokens=1)
        yield Ended(self.cut or len(given) == run.limit, usage, Timings(1.0, 2.0))


async def ask(engine: Told, template: str = PLAIN, **fields: Any) -> list[Delta]:
    holds_calls = fields.pop("holds_calls", True)
    request = ChatRequest(model="m", messages=(Message("user", "Q"),), **fields)
    return [each async for each in answer(request, ChatTemplate(template), engine, holds_calls=holds_calls)]


def shown(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str]], str]:
    """Reasoning, text, calls, and why it ended."""
    thought = "".join(delta.text for delta in deltas if isinstance(delta, Reasoning))
    text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
    calls: dict[int, tuple[str, str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCall):
            name, arguments = calls.get(delta.index, ("", ""))
            assert bool(delta.id) == (delta.index not in calls)
            calls[delta.index] = (name + delta.name, arguments + delta.arguments)
    [end] = [delta for delta in deltas if isinstance(delta, Finished)]
    assert deltas[-1] is end
    return thought, text, list(calls.values()), end.reason


async def test_an_answer_that_wants_nothing_is_one_free_run() -> None:
    engine = Told("<think>hm</think>\n\n4")
    assert shown(await ask(engine, SWITCHED)) == ("hm", "4", [], "stop")
    [run] = engine.runs
    assert (run.prompt, run.form, run.limit, run.open_end) == ("Q:", None, None, False)
    assert run.tags == ("<think>", "</think>")


async def test_a_schema_holds_the_answer_from_its_first_token_on() -> None:
    engine = Told('{"sum": 4}')
    assert shown(await ask(engine, json_schema=SCHEMA)) == ("", '{"sum": 4}', [], "stop")
    [run] = engine.runs
    assert run.form is not None
    assert "sum" in run.form


@pytest.mark.parametrize(
    ("template", "thought", "goes_on"),
    [
        (SWITCHED, "<think>\nhm\n</think>\n\nYes", "Q:<think>\nhm\n</think>\n\n"),
        (ALWAYS, "hm\n</think>\n\nYes", "Q:<think>\nhm\n</think>\n\n"),
        (SWITCHED, "Yes", "Q:"),
        (SWITCHED, " \n", "Q:"),
        (SWITCHED, "", "Q:"),
        (ALWAYS, "hm", "Q:<think>\nhm\n</think>\n\n"),
    ],
)
async def test_a_thought_comes_before_an_answer_that_is_held(
    template: str, thought: str, goes_on: str
) -> None:
    engine = Told(thought, '{"sum": 4}')
    deltas = await ask(engine, template, json_schema=SCHEMA, thinking=True)
    assert shown(deltas) == ("hm" if "hm" in thought else "", '{"sum": 4}', [], "stop")
    free, held = engine.runs
    assert free.form is None
    assert held.form is not None
    assert held.prompt == goes_on


async def test_a_thought_beyond_its_budget_is_closed() -> None:
    engine = Told("a long thought without an end", "4")
    deltas = await ask(engine, ALWAYS, thinking_budget=6)
    assert shown(deltas) == ("a long", "4", [], "stop")
    assert [run.prompt for run in engine.runs] == ["Q:<think>\n", "Q:<think>\na long\n</think>\n\n"]
    end = deltas[-1]
    assert isinstance(end, Finished)
    assert end.usage == Usage(len("Q:<think>\n"), 7, reasoning_tokens=6, cached_tokens=1)
    assert end.timings == Timings(1.0, 5.0)


async def test_a_thought_within_its_budget_is_let_be() -> None:
    engine = Told("hm</think>\n\nan answer longer than that")
    assert shown(await ask(engine, ALWAYS, thinking_budget=20))[:2] == ("hm", "an answer longer than that")
    assert len(engine.runs) == 1


async def test_a_call_that_has_to_be_made_is_begun_for_the_model() -> None:
    engine = Told('weather", "arguments": {"city": "Bonn"}}\n</tool_call>')
    deltas = await ask(engine, tools=(CITY, TIME), must_call=("weather",))
    assert shown(deltas) == ("", "", [("weather", '{"city": "Bonn"}')], "tool_calls")
    [run] = engine.runs
    assert run.prompt == 'Q:<tool_call>\n{"name": "'
    assert run.form is not None
    assert "city" in run.form
    assert '"time' not in run.form


async def test_several_calls_come_out_one_by_one_as_they_arrive() -> None:
    engine = Told(f'time", "arguments": {{}}{HERMES.next}time", "arguments": {{"a": [1]}}{HERMES.end}')
    deltas = await ask(engine, tools=(CITY, TIME), must_call=("weather", "time"))
    assert shown(deltas)[2:] == ([("time", "{}"), ("time", '{"a": [1]}')], "tool_calls")
    assert len([delta for delta in deltas if isinstance(delta, ToolCall)]) > 4


async def test_a_call_has_to_be_made_behind_a_thought() -> None:
    engine = Told("<think>\nhm\n</think>\n\nI will call", 'time", "arguments": {}}\n</tool_call>')
    deltas = await ask(engine, SWITCHED, tools=(TIME,), must_call=("time",))
    assert shown(deltas) == ("hm", "", [("time", "{}")], "tool_calls")
    assert engine.runs[1].prompt == 'Q:<think>\nhm\n</think>\n\n<tool_call>\n{"name": "'


async def test_a_call_that_the_model_begins_is_held_from_there_on() -> None:
    engine = Told("Let me see. \n<tool_call>{nonsense", 'time", "arguments": {}}\n</tool_call>')
    deltas = await ask(engine, tools=(CITY, TIME))
    assert shown(deltas) == ("", "Let me see.", [("time", "{}")], "tool_calls")
    assert engine.given[0] == "Let me see. \n<tool_call>"
    assert engine.runs[1].prompt == 'Q:Let me see. \n<tool_call>\n{"name": "'


async def test_one_call_is_held_to_be_the_only_one() -> None:
    alone = Told("<tool_call>", 'time", "arguments": {}}\n</tool_call>')
    await ask(alone, tools=(TIME,), parallel_calls=False)
    several = Told("<tool_call>", 'time", "arguments": {}}\n</tool_call>')
    await ask(several, tools=(TIME,))
    forms = [engine.runs[1].form or "" for engine in (alone, several)]
    assert [form.count("<tool_call>") for form in forms] == [0, 1]


async def test_where_holding_is_dear_a_call_is_read_when_it_is_whole() -> None:
    engine = Told('<tool_call>{"name": "time", "arguments": {}}</tool_call>')
    deltas = await ask(engine, tools=(TIME,), holds_calls=False)
    assert shown(deltas)[2:] == ([("time", "{}")], "tool_calls")
    broken = Told('<tool_call>{"name": "time", </tool_call>')
    assert shown(await ask(broken, tools=(TIME,), holds_calls=False))[1:3] == (
        '<tool_call>{"name": "time", </tool_call>',
        [],
    )


async def test_a_family_whose_calls_look_like_answers_is_held_only_where_it_has_to_call() -> None:
    free = Told('{"name": "time", "parameters": {}}')
    assert shown(await ask(free, LIKE_LLAMA, tools=(TIME,)))[2:] == ([("time", "{}")], "tool_calls")
    held = Told('time", "parameters": {}}')
    deltas = await ask(held, LIKE_LLAMA, tools=(TIME,), must_call=("time",))
    assert shown(deltas)[2:] == ([("time", "{}")], "tool_calls")
    assert held.runs[0].prompt == "Q:" + LLAMA.openings[0]


async def test_with_a_schema_and_tools_it_is_either() -> None:
    json = Told('{"sum": 4}')
    assert shown(await ask(json, tools=(TIME,), json_schema=SCHEMA))[1:] == ('{"sum": 4}', [], "stop")
    call = Told('<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>')
    deltas = await ask(call, tools=(TIME,), json_schema=SCHEMA)
    assert shown(deltas)[1:] == ("", [("time", "{}")], "tool_calls")
    assert len(call.runs) == 1


@pytest.mark.parametrize("most", range(1, 60))
async def test_max_tokens_holds_over_all_runs(most: int) -> None:
    engine = Told("<think>hm</think>ok", 'time", "arguments": {"a": 12}}\n</tool_call>')
    asked = {"tools": (TIME,), "must_call": ("time",), "sampling": Sampling(max_tokens=most)}
    end = (await ask(engine, SWITCHED, **asked))[-1]
    assert isinstance(end, Finished)
    assert end.usage.completion_tokens == sum(map(len, engine.given)) <= most
    assert all(run.limit for run in engine.runs)
    whole = not engine.texts and engine.given[-1].endswith("</tool_call>") and len(engine.given[-1]) < most
    assert (end.reason == "tool_calls") is (whole and end.usage.completion_tokens < most)


async def test_a_stop_string_ends_the_answer_whatever_run_it_is_in() -> None:
    engine = Told("<think>hm STOP</think>ok", '{"a": "STOP"}')
    deltas = await ask(engine, SWITCHED, json_schema={"type": "object"}, thinking=True, stop=("STOP",))
    assert shown(deltas) == ("hm STOP", '{"a": "', [], "stop")


async def test_an_answer_is_gone_on_with_behind_what_was_said() -> None:
    engine = Told(" is 4")
    deltas = await ask(engine, SWITCHED, so_far=SoFar("It", "hm"))
    assert shown(deltas) == ("", " is 4", [], "stop")
    assert engine.runs[0].prompt == "Q:<think>\nhm\n</think>\n\nIt"


async def test_a_thought_that_was_broken_off_is_gone_on_with() -> None:
    engine = Told("m</think>4")
    assert shown(await ask(engine, ALWAYS, so_far=SoFar("", "h"))) == ("m", "4", [], "stop")
    assert engine.runs[0].prompt == "Q:<think>\nh"


async def test_a_thought_that_was_broken_off_before_a_form_is_gone_on_with() -> None:
    engine = Told("m\n</think>\n\nYes", '{"sum": 4}')
    deltas = await ask(engine, SWITCHED, so_far=SoFar("", "h"), json_schema=SCHEMA, thinking=True)
    assert shown(deltas) == ("m", '{"sum": 4}', [], "stop")
    assert [run.prompt for run in engine.runs] == ["Q:<think>\nh", "Q:<think>\nhm\n</think>\n\n"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": SCHEMA, "so_far": SoFar("a")}, "messages"),
        ({"tools": (TIME,), "must_call": ("time",), "so_far": SoFar("a")}, "messages"),
        ({"tools": (TIME,), "must_call": ("time",), "json_schema": SCHEMA}, "response_format"),
        ({"must_call": ("time",)}, "tool_choice"),
        ({"tools": (Tool("f", "", {"type": "object", "minProperties": -1}),), "must_call": ("f",)},
         "tools[0].function.parameters"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_before_the_engine_is_asked(
    fields: dict[str, Any], param: str
) -> None:
    engine = Told()
    with pytest.raises(BadRequest) as refused:
        await ask(engine, **fields)
    assert refused.value.param == param
    assert engine.runs == []


async def test_a_model_without_a_template_takes_prompts_only() -> None:
    request = ChatRequest(model="m", messages=(Message("user", "Q"),))
    with pytest.raises(BadRequest, match="no chat template"):
        await anext(answer(request, None, Told()))
    engine = Told("<think>is text</think>")
    prompted = ChatRequest(model="m", prompt="Q")
    assert shown([each async for each in answer(prompted, None, engine)])[1] == "<think>is text</think>"


async def test_a_record_of_zods_is_a_schema() -> None:
    schema = {
        "type": "object",
        "propertyNames": {"type": "string"},
        "additionalProperties": {"type": "object", "propertyNames": {"type": "string"}},
    }
    engine = Told("{}")
    assert shown(await ask(engine, json_schema=schema))[1] == "{}"
    with pytest.raises(BadRequest, match="propertyNames"):
        await ask(Told("{}"), json_schema={**schema, "propertyNames": {"pattern": "^a"}})


async def test_what_opens_a_call_is_text_within_json() -> None:
    engine = Told('{"a": "<tool_call>x"}')
    deltas = await ask(engine, tools=(TIME,), json_schema={"type": "object"})
    assert shown(deltas) == ("", '{"a": "<tool_call>x"}', [], "stop")


@pytest.mark.parametrize(
    "said", ["14 + ", "14 <", "27 =", "a <tool_call>", '<tool_call>\n{"name": "f", "arg', "x STOP y", " \n"]
)
async def test_nothing_of_what_was_said_is_said_again(said: str) -> None:
    engine = Told("41.")
    deltas = await ask(engine, tools=(TIME,), stop=("= 3", "STOP"), so_far=SoFar(said))
    assert shown(deltas) == ("", "41.", [], "stop")
    assert engine.runs[0].prompt == "Q:" + said


async def test_a_call_behind_what_was_said_is_held_like_any_other() -> None:
    engine = Told("\n<tool_call>", 'time", "arguments": {}}\n</tool_call>')
    deltas = await ask(engine, tools=(TIME,), so_far=SoFar("Let me see."))
    assert shown(deltas) == ("", "", [("time", "{}")], "tool_calls")


async def test_where_holding_is_dear_there_is_still_one_call_only() -> None:
    call = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
    engine = Told(call + "\n" + call)
    deltas = await ask(engine, tools=(TIME,), holds_calls=False, parallel_calls=False)
    assert shown(deltas)[2:] == ([("time", "{}")], "tool_calls")
    assert engine.given == [call]


async def test_an_empty_grammar_is_a_grammar() -> None:
    engine = Told("")
    assert shown(await ask(engine, grammar=""))[1:] == ("", [], "stop")
    assert engine.runs[0].form == ""
