import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exo.chat import ChatRequest, Finished, Message, Reasoning, Text, ToolCall, Usage
from exo.engines.scripted import Fail, Script, ScriptedEngine, ScriptedModel, Step, Wait
from exo.errors import EngineFailed, NotReady, Overloaded
from tests.doubles import answer, card, finished, reasoning, text

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello.script.json"
ASK = ChatRequest(model="m", messages=(Message("user", "two words"),))


def play(*steps: Step, **options: Any) -> ScriptedModel:
    return ScriptedModel(Script(steps=steps, **options))


async def test_the_example_is_played_as_it_is_written() -> None:
    loop = asyncio.get_running_loop()
    model = await ScriptedEngine().load(card("hello"), EXAMPLE)
    began = loop.time()
    deltas = await answer(model, ASK)
    assert (reasoning(deltas), text(deltas)) == ("They greet me.", "Hello, world!")
    assert finished(deltas) == Finished("stop", Usage(2, 5, reasoning_tokens=2))
    assert loop.time() - began >= 5 * 0.02, "one delta every 20 ms"


async def test_a_script_may_end_itself() -> None:
    end = Finished("length", Usage(7, 8))
    assert await answer(play(Text("a"), end, Text("never")), ASK) == [Text("a"), end]


async def test_steps_are_repeated() -> None:
    assert text(await answer(play(Text("a"), repeat=3), ASK)) == "aaa"


async def test_calls_end_as_calls() -> None:
    assert finished(await answer(play(ToolCall(0, "id", "f", "{}")), ASK)).reason == "tool_calls"


async def test_a_failure_comes_where_it_stands() -> None:
    model = play(Text("a"), Reasoning("b"), Fail("the wheel came off", "overloaded"))
    with pytest.raises(Overloaded, match="the wheel came off"):
        await answer(model, ASK)
    assert model.running == 0


async def test_a_load_can_wait_and_fail(tmp_path: Path) -> None:
    path = tmp_path / "m.script.json"
    path.write_bytes(msgspec.json.encode(Script(steps=(), load=(Wait(0.0), Fail("no", "not_ready")))))
    with pytest.raises(NotReady, match="no"):
        await ScriptedEngine().load(card("m"), path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"steps": [{"type": "dance"}]}',
        '{"steps": [], "pase": 1}',
        '{"steps": [{"type": "fail", "message": "m", "code": "nope"}]}',
    ],
)
async def test_a_file_that_is_no_script_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.script.json"
    path.write_text(content)
    with pytest.raises(EngineFailed, match=r"m\.script\.json: not a script"):
        await ScriptedEngine().load(card("m"), path)
