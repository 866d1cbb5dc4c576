import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Message, Text
from exo.engine import SpellRequest, spelled
from exo.engines.scripted import ScriptedEngine
from exo.errors import BadRequest, ExoError, ModelNotFound, NotReady
from exo.node.local import LocalNode
from exo.nodes import Device
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults
from exo.store.catalogue import BUNDLED, Catalogue
from tests.doubles import SilentObserver, answer, card, text

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


class _Elsewhere:
    """An upstream that knows `cards` once it was asked, and keeps "held" from everybody."""

    def __init__(self, *cards: ModelCard) -> None:
        self._cards = cards
        self.cards: tuple[ModelCard, ...] = ()
        self.refreshed = 0

    def __repr__(self) -> str:
        return "elsewhere"

    def absent(self, model: str) -> ExoError | None:
        return NotReady("held back elsewhere") if model == "held" else None

    @property
    def slots(self) -> int:
        return 1

    async def refresh(self) -> None:
        self.refreshed += 1
        self.cards = self._cards

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        yield Text(f"{request.model} elsewhere")

    async def embed(self, request: EmbedRequest) -> Embeddings:
        return Embeddings(((1.0,),), 1)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        return (len(request.messages), int(begin))

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        return (f"{request.model} elsewhere".encode(),)


@pytest.fixture
async def elsewhere() -> _Elsewhere:
    return _Elsewhere(card("far"), card("both"))


@pytest.fixture
async def between(tmp_path: Path, elsewhere: _Elsewhere) -> AsyncIterator[LocalNode]:
    """A node with the model "both" on its disk, and an upstream."""
    (tmp_path / "both.script.json").write_text('{"steps": [{"type": "text", "text": "here"}]}')
    shelf = Catalogue(tmp_path)
    residency = Residency([ScriptedEngine()], shelf, Limits(memory=1 << 30), SilentObserver())
    yield LocalNode(
        id="me",
        url="",
        version="1",
        device=Device(name="d", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(model="far"),
        upstreams=(elsewhere,),
    )
    await residency.close()


async def test_a_model_of_an_upstream_is_answered_by_it_and_one_on_disk_here(between: LocalNode) -> None:
    node = between
    assert text(await answer(node, ChatRequest(model="", messages=(HI,)))) == "far elsewhere"
    assert text(await answer(node, ChatRequest(model="both", messages=(HI,)))) == "here"
    assert [each.id for each in await node.cards()] == ["far", "both"]
    assert (await node.embed(EmbedRequest(model="", texts=("a",)))).vectors == ((1.0,),)
    with pytest.raises(BadRequest, match="'far' is kept by elsewhere"):
        await node.unload("far")


async def test_an_upstream_says_why_a_model_of_its_cannot_be_asked_for(between: LocalNode) -> None:
    with pytest.raises(NotReady, match="held back elsewhere"):
        await answer(between, ChatRequest(model="held", messages=(HI,)))
    assert "held" not in {each.id for each in await between.cards()}
    with pytest.raises(ModelNotFound, match="there is both, far"):
        await answer(between, ChatRequest(model="zzz", messages=(HI,)))


async def test_an_upstream_is_asked_again_for_unknown_models_only(
    between: LocalNode, elsewhere: _Elsewhere
) -> None:
    for asked in ("both", "far", "far", "both"):
        await answer(between, ChatRequest(model=asked, messages=(HI,)))
    assert elsewhere.refreshed == 1
    with pytest.raises(ModelNotFound):
        await between.card("zzz")
    assert elsewhere.refreshed == 2


async def test_a_deleted_model_is_gone_from_memory_and_disk(node: LocalNode, tmp_path: Path) -> None:
    path = tmp_path / "hello.script.json"
    path.write_text('{"steps": [{"type": "text", "text": "here"}]}')
    await node.load("hello")
    await node.delete("hello")
    assert not path.exists()
    assert node.cluster().me.loaded == ()
    with pytest.raises(ModelNotFound):
        await node.load("hello")


@pytest.fixture
async def mixed(tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node whose engine plays scripts, on a disk with "mine", and with "other" and "both" for llama.cpp.
    "both" is an upstream's, too."""
    (tmp_path / "mine.script.json").write_text('{"steps": [{"type": "text", "text": "here"}]}')
    for name in ("other", "both"):
        shutil.copy(BUNDLED / "exo-demo" / "model.gguf", tmp_path / f"{name}.gguf")
    shelf = Catalogue(tmp_path)
    elsewhere = _Elsewhere(card("both"))
    await elsewhere.refresh()
    residency = Residency([ScriptedEngine()], shelf, Limits(memory=1 << 30), SilentObserver())
    yield LocalNode(
        id="me",
        url="",
        version="1",
        device=Device(name="d", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(),
        upstreams=(elsewhere,),
    )
    await residency.close()


async def test_tokens_are_told_by_what_answers_for_the_model(between: LocalNode) -> None:
    assert await between.tokens(ChatRequest(model="both", prompt="hi")) == (104, 105)
    assert await between.tokens(ChatRequest(model="", messages=(HI, HI)), begin=False) == (2, 0)
    for model, said in (("both", "a"), ("", "far elsewhere")):
        assert spelled(await between.spell(SpellRequest(model=model, tokens=(97,)))) == said
    with pytest.raises(ModelNotFound):
        await between.spell(SpellRequest(model="nowhere", tokens=()))


async def test_the_tokens_of_a_chat_are_those_of_what_is_filled_in(tmp_path: Path) -> None:
    (tmp_path / "m.script.json").write_text('{"steps": []}')
    shelf = Catalogue(tmp_path)
    residency = Residency([ScriptedEngine()], shelf, Limits(memory=1 << 30), SilentObserver())
    node = LocalNode(
        id="me",
        url="",
        version="1",
        device=Device(name="d", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(system_prompt="Be brief."),
    )
    assert bytes(await node.tokens(ChatRequest(model="m", messages=(HI,)))) == b"Be brief.\nhi"
    await residency.close()


async def test_it_offers_what_an_engine_of_it_loads(mixed: LocalNode) -> None:
    assert {each.id for each in await mixed.cards()} == {"mine", "both"}
    state = mixed.state()
    assert {each.id for each in state.cards} == {"mine", "both"}
    assert [(r.model, r.bytes) for r in state.loaded] == [("both", 0)]
    assert (mixed.has("mine"), mixed.has("other")) == (True, False)
    assert text(await answer(mixed, ChatRequest(model="mine", messages=(HI,)))) == "here"
    assert text(await answer(mixed, ChatRequest(model="both", messages=(HI,)))) == "both elsewhere"


async def test_a_model_that_no_engine_loads_is_refused_with_the_reason(mixed: LocalNode) -> None:
    for act in (answer(mixed, ChatRequest(model="other", messages=(HI,))), mixed.load("other")):
        with pytest.raises(NotReady, match="'other' is gguf, which no engine enabled on this node loads"):
            await act


@pytest.mark.parametrize("model", ["mine", "other", "both"])
async def test_whatever_is_on_the_disk_can_be_deleted(mixed: LocalNode, tmp_path: Path, model: str) -> None:
    await mixed.delete(model)
    assert model not in {name.split(".")[0] for name in os.listdir(tmp_path)}
    assert mixed.has(model) is (model == "both")


async def test_what_is_not_on_the_disk_is_not_deleted(mixed: LocalNode, tmp_path: Path) -> None:
    await mixed.delete("both")
    with pytest.raises(BadRequest, match="'both' is kept by elsewhere"):
        await mixed.delete("both")
    with pytest.raises(ModelNotFound, match="'zzz'"):
        await mixed.delete("zzz")
    shutil.copy(BUNDLED / "exo-demo" / "model.gguf", tmp_path / "late.gguf")
    await mixed.delete("late")
    assert not (tmp_path / "late.gguf").exists()


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
