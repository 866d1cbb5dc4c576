"""Layers to nodes by memory: the first exo's figures, what holds for any, plans, and splits by hand."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.cards import ModelCard, Share, Span
from exo.choice import partition
from exo.choice.partition import Footprint, parse, plan, split
from exo.errors import BadRequest
from exo.nodes import Device, Node, Speed

SEVEN = {f"n{number}": 1 for number in range(1, 8)}


def shown(shares: tuple[Share, ...]) -> list[str]:
    return [f"{share.node} {share.span}" for share in shares]


@pytest.mark.parametrize(
    ("memory", "layers", "wanted"),
    [
        ({"n1": 3000, "n2": 1000, "n3": 6000}, 32, ["n3 0-18", "n1 19-27", "n2 28-31"]),
        ({"a": 8192, "b": 16384}, 28, ["b 0-17", "a 18-27"]),
        ({"a": 1, "b": 1000}, 28, ["b 0-26", "a 27-27"]),
        (SEVEN, 32, ["n7 0-3", "n6 4-8", "n5 9-12", "n4 13-17", "n3 18-21", "n2 22-26", "n1 27-31"]),
        ({"a": 5}, 28, ["a 0-27"]),
        ({"a": 0, "b": 0}, 4, ["b 0-1", "a 2-3"]),
        ({"a": 0, "b": 7}, 4, ["b 0-3"]),
        ({}, 4, []),
    ],
)
def test_layers_are_in_proportion_to_memory(memory: dict[str, int], layers: int, wanted: list[str]) -> None:
    assert shown(split(memory, layers)) == wanted


def test_more_nodes_than_layers_leave_some_idle() -> None:
    shares = split(SEVEN, 3)
    assert len(shares) == 3
    assert [share.span for share in shares] == [Span(0, 1), Span(1, 2), Span(2, 3)]


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 1 << 45), min_size=1, max_size=60),
    st.integers(1, 200),
)
def test_a_split_is_whole_without_gaps_and_in_order_of_memory(memory: dict[str, int], layers: int) -> None:
    shares = split(memory, layers)
    assert [layer for each in shares for layer in range(each.span.start, each.span.end)] == [*range(layers)]
    assert all(len(share.span) > 0 for share in shares)
    order = [(memory[share.node], share.node) for share in shares]
    assert order == sorted(order, reverse=True)
    assert len({share.node for share in shares}) == len(shares)


# Plans

CARD = ModelCard(id="big", format="safetensors", context=64, bytes=100, memory=120, layers=10)
# Each layer 10 and a cache of 1, and 10 around them: 120 in all.
EXACT = Footprint(layers=(10,) * 10, ends=10, cache=1)


def node(
    id: str, budget: int, *, speed: Speed | None = None, leaving: bool = False, kind: str = "cpu"
) -> Node:
    device = Device(name=id, cores=1, memory=1, kind=kind)  # type: ignore[arg-type]
    return Node(
        id=id,
        url="",
        version="0",
        device=device,
        cards=(CARD,),
        loaded=(),
        waiting=0,
        budget=budget,
        speeds=(speed,) if speed else (),
        leaving=leaving,
    )


def made(*nodes: Node, footprint: Footprint = EXACT, by_hand: tuple[Share, ...] = ()) -> partition.Plan:
    return plan(CARD, lambda node: footprint, nodes, by_hand)


def test_a_model_that_fits_one_node_stays_whole_on_the_one_with_the_most_memory() -> None:
    made_plan = made(node("a", 200), node("b", 300))
    assert shown(made_plan.shares) == ["b 0-9"]
    assert made_plan.parts[0].bytes == 120
    assert made_plan.exact


def test_a_model_that_fits_no_node_is_split_over_all() -> None:
    made_plan = made(node("a", 60), node("b", 90))
    assert shown(made_plan.shares) == ["b 0-5", "a 6-9"]
    assert [part.bytes for part in made_plan.parts] == [76, 44]
    assert all(part.fits for part in made_plan.parts)
    assert not made_plan.problem


def test_the_ends_may_move_layers_to_a_node_with_room() -> None:
    made_plan = made(node("a", 55), node("b", 65))  # in proportion b would have 5 layers and the ends, a 5
    assert shown(made_plan.shares) == ["b 0-4", "a 5-9"]
    made_plan = made(node("a", 68), node("b", 58))
    assert shown(made_plan.shares) == ["a 0-4", "b 5-9"]
    heavy = Footprint(layers=(10,) * 10, ends=30)
    made_plan = made(node("a", 70), node("b", 70), footprint=heavy)
    assert shown(made_plan.shares) == ["b 0-3", "a 4-9"]
    assert not made_plan.problem


def test_who_has_no_files_comes_behind_who_has_however_big_it_is() -> None:
    a, b, c = node("a", 40), node("b", 60), msgspec.structs.replace(node("c", 90), cards=())
    made_plan = made(a, b, c)
    assert shown(made_plan.shares) == ["b 0-2", "c 3-6", "a 7-9"]
    assert not made_plan.problem
    # Where proportions leave one with too much, too.
    assert shown(made(b, c, footprint=Footprint(layers=(10,) * 10, ends=40)).shares) == ["b 0-1", "c 2-9"]
    assert shown(made(node("a", 120), msgspec.structs.replace(c, budget=200)).shares) == ["a 0-9"]


def test_who_has_some_of_the_files_may_come_first_but_has_it_never_whole() -> None:
    part = msgspec.structs.replace(CARD, whole=False)
    a, c = node("a", 60), msgspec.structs.replace(node("c", 200), cards=(part,))
    assert shown(made(a, c).shares) == ["c 0-6", "a 7-9"]
    assert shown(made(node("a", 120), c).shares) == ["a 0-9"]


def test_too_little_memory_is_a_problem_that_names_the_node() -> None:
    made_plan = made(node("a", 20), node("b", 40))
    assert "node b may use" in made_plan.problem
    assert not made_plan.parts[0].fits


def test_no_node_with_the_model_is_a_problem_too() -> None:
    assert "no node here" in made().problem


def test_only_nodes_that_list_it_for_layers_and_stay_are_able() -> None:
    other = Node(
        id="x",
        url="",
        version="0",
        device=Device(name="x", cores=1, memory=1),
        cards=(),
        loaded=(),
        waiting=0,
    )
    nodes = [node("a", 1), node("b", 1, leaving=True), other]
    assert [each.id for each in partition.able(nodes, "big")] == ["a"]


def test_a_measured_speed_is_told_as_such_and_a_guess_as_a_guess() -> None:
    measured = made(node("a", 500, speed=Speed(model="big", prefill=100.0, decode=7.0)))
    assert (measured.prefill, measured.decode, measured.guessed) == (100.0, 7.0, "")
    never_read = made(node("a", 500, speed=Speed(model="big", decode=7.0)))
    assert never_read.prefill is None
    guessed = made(node("a", 500))
    assert guessed.decode
    assert "guessed" in guessed.guessed
    # What was measured of the model in parts is not known to be of these parts.
    parts = made(node("a", 60, speed=Speed(model="big", decode=7.0)), node("b", 90))
    assert "guessed" in parts.guessed
    assert "network" in parts.guessed


def test_a_split_adds_the_times_of_its_parts() -> None:
    one = made(node("a", 60), node("b", 90, kind="nvidia"))
    assert one.decode is not None
    assert one.decode < 15.0 / 0.1  # slower than its slower part alone, which counts as 100 MB


def test_a_card_alone_gives_an_estimate() -> None:
    footprint = partition.of_card(CARD)
    assert footprint.whole == 120
    assert not made(node("a", 60), node("b", 90), footprint=footprint).exact


# By hand


def test_a_split_by_hand_is_kept_to() -> None:
    model, shares = parse("big=a:0-3,b:4-9")
    assert model == "big"
    assert shares == (Share("a", Span(0, 4)), Share("b", Span(4, 10)))
    assert made(node("a", 500), node("b", 500), by_hand=shares).shares == shares
    assert "node a may use" in made(node("a", 5), node("b", 500), by_hand=shares).problem


def test_ids_may_have_colons() -> None:
    assert parse("user/repo=board:1:0-3")[1] == (Share("board:1", Span(0, 4)),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("big", "'big' is no split"),
        ("=a:0-3", "is no split"),
        ("big=", "is no split"),
        ("big=a", "'a' in the split of big"),
        ("big=a:0-", "'a:0-'"),
        ("big=a:0-x", "'a:0-x'"),
        ("big=:0-3", "':0-3'"),
        ("big=a:1-3", "'a:1-3' in the split of big: its layers must begin with 0"),
        ("big=a:0-3,b:5-9", "'b:5-9' in the split of big: its layers must begin with 4"),
        ("big=a:0-3,b:3-9", "must begin with 4"),
        ("big=a:0-3,b:4-3", "the last come last"),
        ("big=a:0-3,a:4-9", "names a node twice"),
        ("big=a:0-3,", "'' in the split"),
        ("big=a:0-²", "'a:0-²'"),
    ],
)
def test_what_is_no_split_is_told(text: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(text)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("big=a:0-3,c:4-9", "names node 'c', which is not here"),
        ("big=a:0-3,b:4-8", "ends with layer 8, and the model's last one is 9"),
        ("big=a:0-3,b:4-10", "ends with layer 10"),
    ],
)
def test_a_split_by_hand_that_does_not_suit_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        made(node("a", 500), node("b", 500), by_hand=parse(text)[1])
