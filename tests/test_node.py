from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo.chat import ChatRequest, Message, Sampling
from exo.engines.scripted import ScriptedEngine
from exo.errors import BadRequest, ModelNotFound
from exo.node import LocalNode, complete
from exo.nodes import Device
from exo.residency import Limits, Residency
from exo.settings import Defaults
from exo.store.catalogue import Catalogue
from tests.doubles import SilentObserver, answer, text

HI = Message("user", "hi")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LocalNode]:
    shelf = Catalogue(tmp_path)
    residency = Residency([ScriptedEngine()], shelf, Limits(memory=1 << 30), SilentObserver())
    yield LocalNode(
        id="me",
        url="http://me",
        version="1",
        device=Device(name="d", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(model="hello"),
    )
    await residency.close()


async def test_a_model_that_came_after_the_start_is_found(node: LocalNode, tmp_path: Path) -> None:
    request = ChatRequest(model="late", messages=(HI,))
    with pytest.raises(ModelNotFound):
        await answer(node, request)
    (tmp_path / "late.script.json").write_text('{"steps": [{"type": "text", "text": "here"}]}')
    assert text(await answer(node, request)) == "here"


async def test_it_says_what_it_has_in_memory(node: LocalNode, tmp_path: Path) -> None:
    (tmp_path / "hello.script.json").write_text('{"steps": [{"type": "text", "text": "here"}], "slots": 3}')
    await answer(node, ChatRequest(model="", messages=(HI,)))
    me = node.cluster().me
    assert [card.id for card in me.cards] == ["hello"]
    assert [(r.model, r.state, r.running, r.slots) for r in me.loaded] == [("hello", "ready", 0, 3)]


def test_what_a_request_leaves_open_is_filled_in() -> None:
    defaults = Defaults(model="m", temperature=0.5, max_tokens=10, system_prompt="Be brief.")
    done = complete(ChatRequest(model="", messages=(HI,)), defaults)
    assert done.model == "m"
    assert done.messages == (Message("system", "Be brief."), HI)
    assert (done.sampling.temperature, done.sampling.max_tokens) == (0.5, 10)


def test_what_a_request_says_is_kept_but_for_the_cap() -> None:
    defaults = Defaults(model="m", temperature=0.5, max_tokens=10, system_prompt="Be brief.")
    asked = ChatRequest(
        model="mine",
        messages=(Message("system", "Be long."), HI),
        sampling=Sampling(temperature=0.0, max_tokens=99),
    )
    done = complete(asked, defaults)
    assert (done.model, done.messages) == ("mine", asked.messages)
    assert (done.sampling.temperature, done.sampling.max_tokens) == (0.0, 10)


def test_no_defaults_change_nothing() -> None:
    asked = ChatRequest(model="mine", messages=(HI,), sampling=Sampling(max_tokens=99))
    assert complete(asked, Defaults()) == asked


async def test_a_request_without_a_model_needs_a_default(tmp_path: Path) -> None:
    residency = Residency([], {}, Limits(memory=1), SilentObserver())
    node = LocalNode(
        id="me",
        url="",
        version="1",
        device=Device(name="d", cores=1, memory=1),
        shelf=Catalogue(tmp_path),
        residency=residency,
        defaults=Defaults(),
    )
    with pytest.raises(BadRequest, match="model is required") as refused:
        await answer(node, ChatRequest(model="", messages=(HI,)))
    assert refused.value.param == "model"
