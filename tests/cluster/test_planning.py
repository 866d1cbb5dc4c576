"""Which models are split over which nodes, from files on this disk and what the nodes say of themselves."""

import asyncio
import gc
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import constants

from exo.cards import Format, ModelCard, Share, Span
from exo.chat import ChatRequest, Message, Sampling
from exo.choice import partition, routing
from exo.cluster.pipeline import Credentials, Pipeline
from exo.cluster.planning import Planner, footprints, needs
from exo.errors import BadRequest, ModelNotFound, NotReady
from exo.nodes import Cluster, Device, Kind, Node, Prefix, Residence, Speed
from exo.store.catalogue import Catalogue
from tests import checkpoints
from tests.cluster.shard_nodes import CONTEXT, SLOTS, ShardNode
from tests.doubles import answer, text
from tests.store.mirror import Mirror

MODEL = Mirror.repository
LAYERS = 6
SHAPE: dict[str, Any] = {"layers": LAYERS, "width": 64, "intermediate": 128, "heads": 2, "kv_heads": 2}
MUCH = 1 << 40


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one in it, whose layers are files of their own."""
    folder = tmp_path_factory.mktemp("models")
    checkpoints.write(folder / MODEL, **SHAPE, split=True)
    return folder


@pytest.fixture
def shelf(models: Path) -> Catalogue:
    return shelf_in(models)


def shelf_in(folder: Path) -> Catalogue:
    return Catalogue(folder, context=CONTEXT, slots=SLOTS, formats=("safetensors",))


def node(
    id: str,
    budget: int,
    *cards: ModelCard,
    formats: tuple[str, ...] = ("safetensors",),
    kind: Kind = "cpu",
    leaving: bool = False,
) -> Node:
    return Node(
        id=id,
        url="",
        version="0",
        device=Device(name=id, cores=1, memory=1, kind=kind),
        cards=cards,
        loaded=(),
        waiting=0,
        budget=budget,
        leaving=leaving,
        formats=formats,
    )


class View:
    """The nodes as one of them sees them, and its planner. Change `peers` as you like."""

    def __init__(self, shelf: Catalogue, id: str, budget: int, *peers: Node, **options: Any) -> None:
        self.shelf, self.peers = shelf, peers
        cards = [card for card, _ in (*shelf.on_disk.values(), *shelf.partial.values()) if card]
        self._me = node(id, budget, *cards)
        self.planner = Planner(shelf, self.plain, slots=SLOTS, context=CONTEXT, **options)

    def plain(self) -> Cluster:
        """As plans see them."""
        return Cluster(me=self._me, peers=self.peers)

    def offered(self) -> ModelCard:
        return self.planner.offered()[MODEL]

    def said(self) -> Node:
        """What the node says of itself to the others."""
        return msgspec.structs.replace(self._me, cards=tuple(self.planner.offered().values()))

    def seen(self) -> Cluster:
        """As routing sees them."""
        return Cluster(me=self.said(), peers=self.peers)


def shown(shares: Sequence[Share]) -> list[str]:
    return [f"{share.node} {share.span}" for share in shares]


def whole(shelf: Catalogue) -> int:
    return footprints(shelf.on_disk[MODEL][1], slots=SLOTS, context=CONTEXT, dtype="auto")("cpu").whole


def two(shelf: Catalogue, **options: Any) -> tuple[View, View]:
    """Nodes which can only hold the model together, and know what the other one says."""
    size = whole(shelf)
    a, b = (View(shelf, id, size * part // 12) for id, part in (("a", 8), ("b", 6)))
    a.peers = (b._me,)
    b.peers = (a.said(),)
    a.peers = (b.said(),)
    return a, b


# What a node offers


def test_the_card_is_of_what_the_whole_model_takes(shelf: Catalogue) -> None:
    assert shelf.on_disk[MODEL][0].memory == whole(shelf)


def test_a_model_that_fits_a_node_stays_as_it_is(shelf: Catalogue) -> None:
    card = shelf.on_disk[MODEL][0]
    assert View(shelf, "a", whole(shelf)).offered() == card
    # It fits one of them, so the other one has nothing to do with it.
    for budgets in ((whole(shelf), 1), (1, whole(shelf))):
        view = View(shelf, "a", budgets[0], node("b", budgets[1], card))
        assert view.offered() == card


def test_a_model_that_fits_no_node_is_said_to_be_split_and_takes_a_part_each(shelf: Catalogue) -> None:
    a, b = two(shelf)
    assert shown(a.offered().split) == ["a 0-2", "b 3-5"]
    assert b.offered().split == a.offered().split
    assert a.offered().memory + b.offered().memory == whole(shelf)
    assert a.offered().memory <= a.plain().me.budget
    folder = shelf.on_disk[MODEL][1]
    part = needs(folder, Span(3, 6), "cpu", slots=SLOTS, context=CONTEXT, dtype="auto")
    assert b.offered().memory == part


async def test_what_is_offered_is_what_is_planned(shelf: Catalogue) -> None:
    for view in two(shelf):
        assert (await view.planner.plan(MODEL)).shares == view.offered().split


@pytest.mark.parametrize(
    "other",
    [
        {"formats": ("gguf",)},
        {"formats": ("safetensors",), "leaving": True},
        # It could get the files, and has no need to: who has them is enough.
        {"formats": ("safetensors",)},
    ],
    ids=str,
)
async def test_a_big_node_that_has_not_the_model_keeps_it_from_being_split_nowhere(
    shelf: Catalogue, other: dict[str, Any]
) -> None:
    for view in two(shelf):
        before = view.offered().split
        view.peers = (*view.peers, node("big", MUCH, **other))
        assert view.offered().split == before == (await view.planner.plan(MODEL)).shares


def test_a_node_that_computes_in_what_is_stored_holds_what_a_cpu_does_not(
    shelf: Catalogue, tmp_path: Path
) -> None:
    checkpoints.write(tmp_path / MODEL, **SHAPE, dtype="bfloat16")
    shelf = shelf_in(tmp_path)
    card = shelf.on_disk[MODEL][0]
    small = whole(shelf) * 2 // 3
    assert View(shelf, "a", small, node("gpu", small + 1, card, kind="nvidia")).offered() == card
    assert View(shelf, "a", small, node("cpu", small + 1, card)).offered().split


def test_too_little_in_all_is_offered_whole_and_refused_for_its_size(shelf: Catalogue) -> None:
    size = whole(shelf)
    view = View(shelf, "a", size // 4, node("b", size // 4, shelf.on_disk[MODEL][0]))
    with pytest.raises(NotReady, match="MB"):
        routing.choose(routing.Asked(model=MODEL), view.seen())


def test_files_that_have_gone_do_not_take_the_node_along(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    a, _ = two(shelf_in(tmp_path / "models"))
    a.planner = Planner(a.shelf, a.plain, slots=SLOTS, context=CONTEXT)
    shutil.rmtree(tmp_path / "models" / MODEL)
    assert a.offered() == a.shelf.on_disk[MODEL][0]
    # No scan need come between: a disk over the network may be away for a moment.
    shutil.copytree(models / MODEL, tmp_path / "models" / MODEL)
    assert shown(a.offered().split) == ["a 0-2", "b 3-5"]


def test_what_changes_from_second_to_second_is_not_planned_for_again(shelf: Catalogue) -> None:
    a, b = two(shelf)
    before = a.planner.offered()
    (peer,) = a.peers
    device = msgspec.structs.replace(peer.device, free=1, temperature=70.0, npu_load=0.5)
    speed = Speed(model=MODEL, prefill=1.0, decode=1.0)
    for changed in (
        {"waiting": 3},
        {"device": device},
        {"speeds": (speed,)},
        {"prefixes": (Prefix(MODEL, (1,)),)},
        {"loaded": (Residence(model=MODEL, state="ready", bytes=1, slots=1, running=1),)},
    ):
        a.peers = (msgspec.structs.replace(peer, **changed),)
        assert a.planner.offered() is before
    a.peers = b.peers = ()
    assert a.planner.offered() is not before


def test_what_plans_depend_on_is_seen_at_once(shelf: Catalogue, tmp_path: Path) -> None:
    a, _ = two(shelf)
    card = shelf.on_disk[MODEL][0]
    (peer,) = a.peers
    device = Device(name="b", cores=1, memory=1, kind="nvidia")
    other = (Share("b", Span(0, 1)), Share("a", Span(1, LAYERS)))
    led = msgspec.structs.replace(card, split=other)
    seen: list[Any] = []
    for peers in (
        (peer,),
        (msgspec.structs.replace(peer, budget=whole(shelf) * 7 // 12),),
        (msgspec.structs.replace(peer, budget=MUCH),),
        (msgspec.structs.replace(peer, leaving=True),),
        (msgspec.structs.replace(peer, cards=()),),
        (msgspec.structs.replace(peer, cards=(led,)),),
        (msgspec.structs.replace(peer, device=device, cards=(led,)),),
        (peer, node("c", whole(shelf) * 7 // 12, card)),
        (),
    ):
        a.peers = peers
        fresh = View(shelf, "a", a.plain().me.budget, *peers)
        assert a.offered() == fresh.offered(), peers
        seen.append(a.offered())
    assert len({card.split for card in seen}) == 4
    copy = shelf_in(tmp_path)
    view = View(copy, "a", 1)
    assert not view.planner.offered()
    checkpoints.write(tmp_path / MODEL, **SHAPE)
    copy.scan()
    assert [*view.planner.offered()] == [MODEL]


# Who decides


def test_what_the_coordinator_says_is_followed(shelf: Catalogue) -> None:
    a, b = two(shelf)
    other = (Share("a", Span(0, 1)), Share("b", Span(1, LAYERS)))
    said = msgspec.structs.replace(a.offered(), split=other)
    b.peers = (node("a", a.plain().me.budget, said),)
    assert b.offered().split == other
    assert b.offered().memory > b.plain().me.budget / 2
    # Even where this node could hold it alone: one model is on one set of nodes.
    alone = View(shelf, "b", MUCH, *b.peers)
    assert alone.offered().split == other


def test_what_somebody_else_says_is_not(shelf: Catalogue) -> None:
    a, b = two(shelf)
    before = a.offered().split
    # As long as b has not heard yet that a leads now, say.
    wrong = (Share("a", Span(0, 1)), Share("b", Span(1, LAYERS)))
    a.peers = (node("b", b.plain().me.budget, msgspec.structs.replace(b.offered(), split=wrong)),)
    assert a.offered().split == before != wrong


def test_two_that_both_lead_come_to_agree(shelf: Catalogue) -> None:
    a, b = two(shelf)
    mine, theirs = ((Share(x, Span(0, 3)), Share(y, Span(3, LAYERS))) for x, y in (("a", "b"), ("b", "a")))
    a.peers = (node("b", b.plain().me.budget, msgspec.structs.replace(b.offered(), split=theirs)),)
    b.peers = (node("a", a.plain().me.budget, msgspec.structs.replace(a.offered(), split=mine)),)
    for _ in range(3):
        a_says, b_says = a.said(), b.said()
        a.peers, b.peers = (b_says,), (a_says,)
    assert a.offered().split == b.offered().split
    assert a.offered().split[0].node == "a"


BY_HAND = (Share("a", Span(0, 2)), Share("b", Span(2, LAYERS)))


def test_by_hand_wins(shelf: Catalogue) -> None:
    card = shelf.on_disk[MODEL][0]
    theirs = msgspec.structs.replace(card, split=(Share("b", Span(0, 3)), Share("a", Span(3, LAYERS))))
    for budget in (whole(shelf) // 2, MUCH):
        view = View(shelf, "a", budget, node("b", MUCH, theirs), by_hand={MODEL: BY_HAND})
        assert view.offered().split == BY_HAND
        assert view.offered().memory < whole(shelf)
        b = View(shelf, "b", MUCH, view.said())
        assert b.offered().split == BY_HAND
        assert b.offered().memory + view.offered().memory == whole(shelf)


@pytest.mark.parametrize("budget", [MUCH, 0.7], ids=["roomy", "too small for all of it"])
def test_a_node_of_a_split_by_hand_that_is_not_here_is_named(shelf: Catalogue, budget: float) -> None:
    size = whole(shelf)
    view = View(shelf, "a", int(budget if budget > 1 else budget * size), by_hand={MODEL: BY_HAND})
    assert view.offered().split == BY_HAND
    with pytest.raises(NotReady, match="b, which has layers 2-5 of it for a, is not here"):
        routing.choose(routing.Asked(model=MODEL), view.seen())
    view.peers = (node("b", MUCH, shelf.on_disk[MODEL][0]),)
    assert routing.choose(routing.Asked(model=MODEL), view.seen()).node.id == "a"


def test_when_one_of_two_is_gone_the_other_one_says_why_it_cannot_answer(shelf: Catalogue) -> None:
    a, _ = two(shelf)
    assert routing.choose(routing.Asked(model=MODEL), a.seen()).node.id == "a"
    a.peers = ()
    assert not a.offered().split
    with pytest.raises(NotReady, match=r"a may use .* and the model takes about"):
        routing.choose(routing.Asked(model=MODEL), a.seen())


def test_when_one_of_three_is_gone_the_others_have_all_layers(shelf: Catalogue) -> None:
    size, card = whole(shelf), shelf.on_disk[MODEL][0]
    b, c = (node(id, size * 6 // 12, card) for id in "bc")
    a = View(shelf, "a", size * 8 // 12, b, c)
    assert {share.node for share in a.offered().split} == {"a", "b", "c"}
    a.peers = (c,)
    assert shown(a.offered().split) == ["a 0-2", "c 3-5"]


# Where requests go


def test_only_the_first_shares_node_is_asked(shelf: Catalogue) -> None:
    a, b = two(shelf)
    a.peers, b.peers = (b.said(),), (a.said(),)
    for view in (a, b):
        routes = routing.explain(routing.Asked(model=MODEL), view.seen())
        assert [route.node.id for route in routes] == ["a"]
        with pytest.raises(NotReady, match="b has no more than a part of it, for a"):
            routing.choose(routing.Asked(model=MODEL), view.seen(), without=["a"])


# What cannot be planned


async def test_what_cannot_be_split_is_refused_by_name(shelf: Catalogue) -> None:
    formats: tuple[Format, ...] = ("gguf", "rkllm", "remote")
    others = [
        ModelCard(id=format, format=format, context=64, bytes=1 << 20, memory=1 << 20) for format in formats
    ]
    view = View(shelf, "a", MUCH, node("b", MUCH, *others))
    with pytest.raises(ModelNotFound, match="model 'nobody' is on none of the nodes"):
        await view.planner.plan("nobody")
    for model in ("rkllm", "remote"):
        with pytest.raises(BadRequest, match=f"'{model}' is kept by another server"):
            await view.planner.plan(model)
    with pytest.raises(BadRequest, match="'gguf' is gguf and cannot be split"):
        await view.planner.plan("gguf", "a:0-1,b:2-5")
    assert shown((await view.planner.plan("gguf")).shares) == ["b 0-0"]
    with pytest.raises(BadRequest, match="names node 'nobody', which is not here"):
        await view.planner.plan(MODEL, "a:0-1,nobody:2-5")


async def test_a_node_without_the_files_plans_by_what_another_one_says(
    shelf: Catalogue, tmp_path: Path
) -> None:
    a, b = two(shelf)
    onlooker = View(shelf_in(tmp_path), "z", 1, a.said(), b.said())
    plan = await onlooker.planner.plan(MODEL)
    assert plan.shares == a.offered().split
    assert not plan.exact


# A part from the hub


@pytest.fixture
async def mirror(models: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    """Has the model."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    async with Mirror().running() as mirror:
        mirror.files = {path.name: path.read_bytes() for path in (models / MODEL).iterdir()}
        # As that library reads HF_ENDPOINT when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", mirror.url)
        template = mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield mirror


ASKED = ChatRequest(
    model=MODEL,
    messages=(Message("user", "What is 145 + 278?"),),
    sampling=Sampling(temperature=0, max_tokens=8),
)


async def test_a_node_without_the_files_is_planned_with_and_gets_those_of_its_layers(
    mirror: Mirror, models: Path, tmp_path: Path
) -> None:
    size = whole(shelf_in(models))
    nodes = [
        ShardNode("alone", folder=models),
        ShardNode("a", folder=models, memory=size * 8 // 12),
        ShardNode("b", folder=tmp_path / "models", memory=size * 6 // 12),
    ]
    alone, a, b = nodes
    a.peers, b.peers = [b], [a]
    try:
        for each in nodes:
            await each.start()
        a.shelf.offered = View(a.shelf, "a", a.here.state().budget, b.state()).planner.offered
        plan = await a.planner.plan(MODEL)
        assert shown(plan.shares) == ["a 0-2", "b 3-5"]
        assert plan.exact
        assert not plan.problem
        async with asyncio.timeout(60):
            said = text(await answer(a.here, ASKED))
        assert said == text(await answer(alone.here, ASKED))
        assert [*b.held] == [f"{MODEL} (layers 3-5 for a)"]
        _, here = b.shelf.partial[MODEL]
        weights = {f"model-{layer + 2:05}-of-{LAYERS + 1:05}.safetensors" for layer in (3, 4, 5)}
        assert {path.name for path in here.glob("*.safetensors")} == weights
        fetched = {seen.path.rpartition("/")[2] for seen in mirror.downloads()}
        assert {name for name in fetched if name.endswith(".safetensors")} == weights
        # Loaded again, it is there.
        await a.residency.unload(MODEL)
        seen = len(mirror.seen)
        async with asyncio.timeout(60):
            assert text(await answer(a.here, ASKED)) == said
        assert len(mirror.seen) == seen
    finally:
        for each in nodes:
            await each.stop()
        gc.collect()  # asyncio's transports of processes are unmade by the collector


def in_part(folder: Path, models: Path, *layers: int) -> Path:
    """A folder of models with these layers of the model, and what is beside its weights."""
    (folder / MODEL).mkdir(parents=True)
    for file in (models / MODEL).iterdir():
        if file.suffix != ".safetensors" or file.name in weights(*layers):
            shutil.copy(file, folder / MODEL)
    return folder


def weights(*layers: int) -> set[str]:
    """The files with these layers; -1 is what is around them."""
    return {f"model-{layer + 2:05}-of-{LAYERS + 1:05}.safetensors" for layer in layers}


def test_a_part_of_the_files_is_said_as_split_or_not_at_all(models: Path, tmp_path: Path) -> None:
    size = whole(shelf_in(models))
    shelf = shelf_in(in_part(tmp_path, models, 3, 4))
    assert shelf.on_the_hub(MODEL)
    view = View(shelf, "a", size * 8 // 12)
    assert not view.planner.offered()
    view.peers = (node("b", size * 6 // 12),)
    said = view.offered()
    assert shown(said.split) == ["a 0-2", "b 3-5"]
    assert abs(said.memory - size / 2) < size / 10
    # Where a node has all of them and holds it alone, a part is of no use.
    view.peers = (node("b", MUCH, shelf_in(models).on_disk[MODEL][0]),)
    assert not view.planner.offered()


def test_nodes_come_to_agree_on_who_leads_with_whatever_files(models: Path, tmp_path: Path) -> None:
    size = whole(shelf_in(models))
    part, other = shelf_in(in_part(tmp_path / "a", models, 3)), shelf_in(in_part(tmp_path / "b", models, 4))
    for shelves, budgets, order in (
        # Both with some of the files; one with all and one, which is larger than the model, with some.
        ((part, other), (8, 6), ["a 0-2", "b 3-5"]),
        ((part, shelf_in(models)), (13, 6), ["a 0-3", "b 4-5"]),
        ((shelf_in(models), part), (6, 13), ["b 0-3", "a 4-5"]),
    ):
        views = [
            View(shelf, id, size * budget // 12)
            for shelf, id, budget in zip(shelves, "ab", budgets, strict=True)
        ]
        a, b = views
        a.peers, b.peers = (node("b", b.plain().me.budget),), (node("a", a.plain().me.budget),)
        for _ in range(6):
            said = [view.said() for view in views]
            b.peers, a.peers = (said[0],), (said[1],)
        for _ in range(3):
            said = [view.said() for view in views]
            b.peers, a.peers = (said[0],), (said[1],)
            assert [shown(view.cards[0].split) for view in said] == [order, order]


def test_who_has_no_files_does_not_lead_however_big_it_is(models: Path, shelf: Catalogue) -> None:
    size = whole(shelf)
    view = View(shelf, "a", size // 2, node("z", size * 11 // 12))
    assert [share.node for share in view.offered().split] == ["a", "z"]
    assert routing.choose(routing.Asked(model=MODEL), view.seen()).node.id == "a"


async def test_a_node_with_a_part_of_the_files_leads_and_gets_those_of_its_own_part_only(
    mirror: Mirror, models: Path, tmp_path: Path
) -> None:
    size = whole(shelf_in(models))
    nodes = [
        ShardNode("alone", folder=models),
        ShardNode("a", folder=in_part(tmp_path / "a", models, 4), memory=size * 8 // 12),
        ShardNode("b", folder=in_part(tmp_path / "b", models, 4, 5), memory=size * 6 // 12),
    ]
    alone, a, b = nodes
    a.peers, b.peers = [b], [a]
    try:
        for each in nodes:
            await each.start()
        view = View(a.shelf, "a", size * 8 // 12, b.state())
        a.planner._cluster = view.plain
        a.shelf.offered = a.planner.offered
        assert [card.id for card in a.here.state().cards] == [MODEL]
        async with asyncio.timeout(60):
            said = text(await answer(a.here, ASKED))
        assert said == text(await answer(alone.here, ASKED))
        assert [*b.held] == [f"{MODEL} (layers 3-5 for a)"]
        fetched = {seen.path.rpartition("/")[2] for seen in mirror.downloads()}
        assert {name for name in fetched if name.endswith(".safetensors")} == weights(-1, 0, 1, 2, 3)
        for each, layers in ((a, (-1, 0, 1, 2, 4)), (b, (3, 4, 5))):
            _, here = each.shelf.partial[MODEL]
            assert {path.name for path in here.glob("*.safetensors")} == weights(*layers)
        # Loaded again, it is there.
        await a.residency.unload(MODEL)
        seen = len(mirror.seen)
        async with asyncio.timeout(60):
            assert text(await answer(a.here, ASKED)) == said
        assert len(mirror.seen) == seen
    finally:
        for each in nodes:
            await each.stop()
        gc.collect()  # asyncio's transports of processes are unmade by the collector


async def test_files_of_ones_own_part_that_cannot_be_downloaded_are_named(
    models: Path, tmp_path: Path
) -> None:
    size = whole(shelf_in(models))
    (tmp_path / "models").mkdir()
    (in_part(tmp_path / "hub", models, 0, 1) / MODEL).rename(tmp_path / "models" / "ours")
    shelf = shelf_in(tmp_path / "models")
    card, folder = shelf.partial["ours"]
    assert card
    view = View(shelf, "a", size * 8 // 12, node("b", size * 6 // 12, card))
    with pytest.raises(
        NotReady, match=r"files of layers 0-2 or .* not here and cannot be downloaded: 'ours'"
    ):
        await Pipeline(view.planner, Credentials("a"))(card, folder)


async def test_whoever_has_the_files_is_enough(models: Path, shelf: Catalogue) -> None:
    size, card = whole(shelf), shelf.on_disk[MODEL][0]
    able = node("b", size, card)
    view = View(shelf, "a", size // 2, able, node("c", size))
    assert shown((await view.planner.plan(MODEL)).shares) == ["b 0-5"]
    assert shelf.on_the_hub(MODEL)
    assert {each.id for each in partition.able((able, node("c", size)), MODEL)} == {"b"}
