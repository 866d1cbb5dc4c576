"""The contract of `engine.Responder`, put to every kind of responder there is.

A new engine adds itself to `subjects.SUBJECTS` and passes, or is not done.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from exo.chat import Reasoning, Sampling, SoFar, Text, Tool, ToolCall
from exo.errors import ContextLengthExceeded
from tests.contract.subjects import SUBJECTS, Ground, Subject
from tests.doubles import answer, finished, reasoning, text

_THINKING = [name for name in SUBJECTS if name != "scripted"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=SUBJECTS, scope="module", loop_scope="module")
async def subject(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build: Path,
    file_for: Callable[..., Path],
) -> AsyncIterator[Subject]:
    """One for all the tests, as some take seconds to load; none of them leaves anything behind in it."""
    ground = Ground(tmp_path_factory.mktemp(request.param), build, file_for)
    async with SUBJECTS[request.param](ground) as subject:
        yield subject


async def test_an_answer_is_text_and_ends_once(subject: Subject) -> None:
    deltas = await answer(subject.responder, subject.request())
    usage = finished(deltas).usage
    assert text(deltas)
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 30


async def test_nothing_happens_before_it_is_asked_for(subject: Subject) -> None:
    unasked = [subject.responder.respond(subject.request()) for _ in range(subject.slots + 1)]
    assert finished(await answer(subject.responder, subject.request()))
    for generator in unasked:
        await generator.aclose()


async def test_max_tokens_cuts_the_answer(subject: Subject) -> None:
    request = subject.request(sampling=Sampling(temperature=0, max_tokens=5))
    end = finished(await answer(subject.responder, request))
    assert end.reason == "length"
    assert end.usage.completion_tokens == 5


async def test_a_stop_string_ends_the_answer_before_itself(subject: Subject) -> None:
    whole = text(await answer(subject.responder, subject.request()))
    stop = whole[10:14]
    deltas = await answer(subject.responder, subject.request(stop=("nowhere in there", stop)))
    assert text(deltas) == whole[: whole.index(stop)]
    assert finished(deltas).reason == "stop"


async def test_an_answer_says_which_stop_string_ended_it(subject: Subject) -> None:
    whole = text(await answer(subject.responder, subject.request()))
    ended = await answer(subject.responder, subject.request(stop=("no such text", whole[10:14])))
    assert finished(ended).stop == whole[10:14]
    assert finished(await answer(subject.responder, subject.request())).stop == ""


async def test_a_closed_answer_gives_its_slot_back(subject: Subject) -> None:
    for _ in range(2 * subject.slots + 1):
        async with aclosing(subject.responder.respond(subject.request())) as deltas:
            assert isinstance(await anext(deltas), Text)
    assert finished(await answer(subject.responder, subject.request()))


async def test_a_cancelled_answer_gives_its_slot_back(subject: Subject) -> None:
    for _ in range(2 * subject.slots + 1):
        first = asyncio.Event()

        async def read(first: asyncio.Event = first) -> None:
            async with aclosing(subject.responder.respond(subject.request())) as deltas:
                async for _ in deltas:
                    first.set()
                    await asyncio.Event().wait()

        reader = asyncio.create_task(read())
        await first.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert finished(await answer(subject.responder, subject.request()))


async def test_answers_at_once_are_the_answers_alone(subject: Subject) -> None:
    questions = [f"Count from {n} to {n + 25}." for n in range(2 * subject.slots)]
    alone = [text(await answer(subject.responder, subject.request(q))) for q in questions]
    at_once = await asyncio.gather(*(answer(subject.responder, subject.request(q)) for q in questions))
    assert [text(deltas) for deltas in at_once] == alone


async def test_the_same_seed_gives_the_same_answer(subject: Subject) -> None:
    request = subject.request(sampling=Sampling(temperature=1.5, seed=7, max_tokens=20))
    first, second = [text(await answer(subject.responder, request)) for _ in range(2)]
    assert first == second


async def test_a_prompt_beyond_the_context_is_refused(subject: Subject) -> None:
    with pytest.raises(ContextLengthExceeded, match="tokens long") as refused:
        await answer(subject.responder, subject.request("word " * 5000))
    assert refused.value.param == "messages"
    assert finished(await answer(subject.responder, subject.request()))


@pytest.mark.parametrize("subject", _THINKING, indirect=True)
async def test_thinking_comes_before_the_answer_and_counts(subject: Subject) -> None:
    deltas = await answer(subject.responder, subject.request("What is 14 + 27?", thinking=True))
    kinds = [type(delta).__name__ for delta in deltas]
    assert kinds == sorted(kinds, key=["Reasoning", "Text", "Finished"].index)
    assert "=" in reasoning(deltas)
    assert "think>" not in reasoning(deltas) + text(deltas)
    assert 0 < finished(deltas).usage.reasoning_tokens < finished(deltas).usage.completion_tokens


# Short, as one of the subjects has a small context.
TOOLS = (
    Tool("now"),
    Tool(
        "roll", "", {"properties": {"n": {"enum": [6, 20]}}, "required": ["n"], "additionalProperties": False}
    ),
)


@pytest.mark.parametrize("subject", _THINKING, indirect=True)
async def test_a_thought_ends_with_its_budget_and_an_answer_follows(subject: Subject) -> None:
    deltas = await answer(
        subject.responder, subject.request("What is 114 + 327?", thinking=True, thinking_budget=6)
    )
    assert finished(deltas).usage.reasoning_tokens == 6
    assert 0 < len(reasoning(deltas)) < 20
    assert text(deltas)
    assert "think>" not in text(deltas)
    assert finished(deltas).reason == "stop"
    assert finished(deltas).usage.prompt_tokens > 0


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("subject", _THINKING, indirect=True)
async def test_a_call_that_has_to_be_made_is_made_to_its_schema(subject: Subject, thinking: bool) -> None:
    asked = {"tools": TOOLS, "must_call": ("roll",), "parallel_calls": False, "thinking": thinking}
    deltas = await answer(subject.responder, subject.request("What is 14 + 27?", **asked))
    calls = [delta for delta in deltas if isinstance(delta, ToolCall)]
    assert "".join(call.name for call in calls) == "roll"
    assert json.loads("".join(call.arguments for call in calls)) in ({"n": 6}, {"n": 20})
    assert [bool(call.id) for call in calls] == [True, *[False] * (len(calls) - 1)]
    assert text(deltas) == ""
    assert bool(reasoning(deltas)) == thinking
    assert finished(deltas).reason == "tool_calls"


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("subject", _THINKING, indirect=True)
async def test_an_answer_keeps_to_a_schema_behind_a_thought_too(subject: Subject, thinking: bool) -> None:
    schema = {"type": "array", "items": {"enum": ["yes", "no"]}, "minItems": 2, "maxItems": 3}
    deltas = await answer(
        subject.responder, subject.request("What is 14 + 27?", json_schema=schema, thinking=thinking)
    )
    assert 2 <= len(json.loads(text(deltas))) <= 3
    assert bool(reasoning(deltas)) == thinking


@pytest.mark.parametrize("thinking", [False, True])
async def test_an_answer_broken_off_anywhere_is_gone_on_with(subject: Subject, thinking: bool) -> None:
    greedy = Sampling(temperature=0)
    asked = subject.request("What is 14 + 27?", thinking=thinking, sampling=greedy)
    whole = await answer(subject.responder, asked)
    said = [delta for delta in whole if isinstance(delta, Text | Reasoning)]
    for cut in range(1, len(said)):
        so_far = SoFar(text(said[:cut]), reasoning(said[:cut]))
        rest = await answer(subject.responder, msgspec.structs.replace(asked, so_far=so_far))
        assert so_far.text + text(rest) == text(whole)
        assert so_far.reasoning + reasoning(rest) == reasoning(whole)
        assert finished(rest).reason == finished(whole).reason
