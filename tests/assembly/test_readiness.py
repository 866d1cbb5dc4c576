import asyncio
from pathlib import Path

import pytest

from exo.assembly.readiness import Readiness
from exo.engines.scripted import ScriptedEngine
from exo.errors import EngineFailed
from exo.store.catalogue import Catalogue


@pytest.fixture
def with_model(tmp_path: Path) -> Catalogue:
    (tmp_path / "hello.script.json").write_text('{"steps": [{"type": "text", "text": "hi"}]}')
    return Catalogue(tmp_path)


class _Broken(ScriptedEngine):
    def unavailable(self) -> str | None:
        return "no chip"


def test_a_node_is_ready_with_a_model_and_an_engine_for_it(with_model: Catalogue) -> None:
    assert Readiness(with_model, [_Broken(), ScriptedEngine()], []).why_not() is None


def test_it_is_said_what_a_node_lacks(with_model: Catalogue, tmp_path: Path) -> None:
    empty = Catalogue(tmp_path / "nothing")
    assert Readiness(with_model, [_Broken()], []).why_not() == "no chip"
    assert Readiness(with_model, [], []).why_not() == "no engine enabled on this node loads script"
    assert Readiness(empty, [ScriptedEngine()], []).why_not() == "there is no model on this node's disk"


def test_a_node_waits_for_as_many_others_as_are_wanted(with_model: Catalogue) -> None:
    readiness, others = Readiness(with_model, [ScriptedEngine()], []), ["b"]
    readiness.wait_for(2, lambda: len(others))
    assert readiness.why_not() == "waiting for other nodes: 1 of 2 are here"
    others.append("c")
    assert readiness.why_not() is None


async def test_it_is_ready_once_all_was_loaded_or_failed_to(
    with_model: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    readiness, may_end = Readiness(with_model, [ScriptedEngine()], []), asyncio.Event()
    said = []

    async def load(model: str) -> None:
        said.append(readiness.why_not())
        if model == "broken":
            raise EngineFailed("it is cut short")
        await may_end.wait()

    loading = asyncio.create_task(readiness.preload(["broken", "hello"], load))
    async with asyncio.timeout(5):
        while len(said) < 2:
            await asyncio.sleep(0)
    assert said == ["loading broken", "loading hello"]
    assert readiness.why_not() == "loading hello"
    may_end.set()
    await loading
    assert readiness.why_not() is None
    assert "preloading failed: it is cut short" in caplog.text
