"""Which node takes which layers of a model that no node can hold alone. Pure.

Every node computes the same plan from the same view: it depends on what the nodes say of themselves that does
not change from second to second (`Node.budget`), and on ids where that is equal. The first part's node
coordinates: it also has what surrounds the layers, the embedding, the last norm and the output head.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import msgspec

from exo.cards import ModelCard, Share, Span
from exo.choice.speeds import Known
from exo.errors import BadRequest
from exo.nodes import Node

# Decimal places of a boundary between two nodes, as a fraction of all layers: as the first exo had it.
_PLACES = 5


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes in memory on some kind of node, in bytes: the weights of each layer; `ends`, those
    of what surrounds the layers; and `cache`, a layer's KV cache of all slots. `exact` is read off the
    tensors, and otherwise made of the card, whose figure is of all at once."""

    layers: tuple[int, ...]
    ends: int = 0
    cache: int = 0
    exact: bool = True

    @property
    def whole(self) -> int:
        return self.of(Span(0, len(self.layers)))

    def of(self, span: Span) -> int:
        """A part's bytes; the first one has the ends."""
        return (
            sum(self.layers[span.start : span.end]) + self.cache * len(span) + self.ends * (span.start == 0)
        )


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part of a plan: the bytes it takes, and those that node may use for all its models."""

    node: str
    span: Span
    bytes: int
    budget: int

    @property
    def fits(self) -> bool:
        return self.bytes <= self.budget


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model's layers go, in their order; the first part's node is asked for answers.

    `prefill` and `decode` are the tokens per second that one request is expected to be read and written at,
    None where nothing is known; `guessed` says in words what a figure that was not measured is made of. With
    a `problem` the model cannot be loaded so.
    """

    model: str
    layers: int
    parts: tuple[Part, ...]
    exact: bool = True
    prefill: float | None = None
    decode: float | None = None
    guessed: str = ""
    problem: str = ""

    @property
    def shares(self) -> tuple[Share, ...]:
        return tuple(Share(part.node, part.span) for part in self.parts)


Footprints: TypeAlias = Callable[[Node], Footprint]
"""What a model takes on a node: a CPU computes with wider numbers than most files have."""


def of_card(card: ModelCard) -> Footprint:
    """An estimate from the card alone, the same for each layer. A split one's memory is of a part only."""
    layers = max(card.layers, 1)
    whole = card.bytes if card.split else card.memory
    return Footprint(layers=(-(-whole // layers),) * layers, exact=False)


def split(memory: Mapping[str, int], layers: int) -> tuple[Share, ...]:
    """Layers in proportion to memory, most memory first, and the last id first where that is equal.

    A node with too little for one layer has none. If all have none, they count the same.
    """
    return _in_proportion(_by_size(memory), memory, layers)


def _in_proportion(nodes: Sequence[str], memory: Mapping[str, int], layers: int) -> tuple[Share, ...]:
    total = sum(memory.values())
    shares: list[Share] = []
    # The fractions are rounded and then added, and rounded again: this decides where boundaries fall.
    reached, start = 0.0, 0
    for node in nodes:
        reached = round(reached + (memory[node] / total if total else 1 / len(nodes)), _PLACES)
        end = layers if node == nodes[-1] else min(int(reached * layers), layers)
        if end > start:
            shares.append(Share(node, Span(start, end)))
            start = end
    return tuple(shares)


def able(nodes: Collection[Node], model: str, *, on_the_hub: bool = False) -> tuple[Node, ...]:
    """The nodes that could have a part of it, and stay: those that list it for an engine of layers, and with
    `on_the_hub` those that have such an engine, as they can download the layers."""
    return tuple(
        node
        for node in nodes
        if not node.leaving
        and (
            (on_the_hub and "safetensors" in node.formats)
            or any(card.id == model and card.format == "safetensors" for card in node.cards)
        )
    )


def plan(
    card: ModelCard, footprints: Footprints, nodes: Sequence[Node], by_hand: Sequence[Share] = ()
) -> Plan:
    """Whole on the node with the most memory if it fits there; else over all of `nodes`, which are able to.

    In proportion to memory, or where that leaves a node with too much (the ends weigh, too), each as full as
    it can be. Only a node with all files has it whole, and only one with some of them comes first, whatever
    memory others have. `by_hand` is kept to in any case: raises `BadRequest` where it names other nodes or
    layers.
    """
    by_id = {node.id: node for node in nodes}
    sizes = {node.id: node.budget for node in nodes}
    ids = (card.id, card.format)
    said = {node.id: each for node in nodes for each in node.cards if (each.id, each.format) == ids}
    order = sorted(_by_size(sizes), key=lambda id: id not in said)
    order[1:] = _by_size({id: sizes[id] for id in order[1:]})
    if by_hand:
        _check(by_hand, card, by_id)
        return _described(card, footprints, by_id, by_hand)
    if not nodes:
        return Plan(
            model=card.id,
            layers=card.layers,
            parts=(),
            problem=f"no node here has an engine of layers and the files of '{card.id}'",
        )
    alone = next((by_id[id] for id in order if id in said and said[id].whole), None)
    if alone and (card.layers < 1 or footprints(alone).whole <= alone.budget):
        return _described(card, footprints, by_id, (Share(alone.id, Span(0, max(card.layers, 1))),))
    proportional = _described(card, footprints, by_id, _in_proportion(order, sizes, card.layers))
    if not proportional.problem:
        return proportional
    filled = _filled(card.layers, footprints, [by_id[id] for id in order])
    return _described(card, footprints, by_id, filled) if filled else proportional


def parse(text: str) -> tuple[str, tuple[Share, ...]]:
    """`MODEL=node1:0-13,node2:14-27`, both layers of a pair included. Raises `BadRequest` that names the
    culprit."""
    model, equals, listed = text.partition("=")
    if not (model and equals and listed):
        raise BadRequest(f"'{text}' is no split: it looks like MODEL=node1:0-13,node2:14-27", param="split")
    shares: list[Share] = []
    for each in listed.split(","):
        node, _, layers = each.rpartition(":")
        first, _, last = layers.partition("-")
        if not (node and layers.isascii() and first.isdecimal() and last.isdecimal()):
            raise BadRequest(f"'{each}' in the split of {model} is no NODE:FIRST-LAST", param="split")
        shares.append(Share(node, Span(int(first), int(last) + 1)))
    reached = 0
    for share in shares:
        if share.span.start != reached or not len(share.span):
            raise BadRequest(
                f"'{share.node}:{share.span}' in the split of {model}: its layers must begin with {reached}, "
                "and the last come last",
                param="split",
            )
        reached = share.span.end
    if len({share.node for share in shares}) < len(shares):
        raise BadRequest(
            f"the split of {model} names a node twice; its layers must be in one piece", param="split"
        )
    return model, tuple(shares)


def _by_size(memory: Mapping[str, int]) -> list[str]:
    return sorted(memory, key=lambda node: (memory[node], node), reverse=True)


def _check(shares: Sequence[Share], card: ModelCard, nodes: Mapping[str, Node]) -> None:
    for share in shares:
        if share.node not in nodes:
            raise BadRequest(
                f"the split of {card.id} names node '{share.node}', which is not here or has no engine of "
                f"layers and the model's files; there are {', '.join(sorted(nodes)) or 'none'}",
                param="split",
            )
    if shares[-1].span.end != card.layers:
        raise BadRequest(
            f"the split of {card.id} ends with layer {shares[-1].span.end - 1}, and the model's last one is "
            f"{card.layers - 1}",
            param="split",
        )


def _filled(layers: int, footprints: Footprints, nodes: Sequence[Node]) -> tuple[Share, ...]:
    """Each node as full as it can be, in this order; () if that is not enough for all layers."""
    shares: list[Share] = []
    start = 0
    for node in nodes:
        footprint, end = footprints(node), start
        while end < layers and footprint.of(Span(start, end + 1)) <= node.budget:
            end += 1
        if end > start:
            shares.append(Share(node.id, Span(start, end)))
            start = end
    return tuple(shares) if start == layers else ()


def _described(
    card: ModelCard, footprints: Footprints, nodes: Mapping[str, Node], shares: Sequence[Share]
) -> Plan:
    parts = tuple(
        Part(
            node=share.node,
            span=share.span,
            bytes=footprints(nodes[share.node]).of(share.span),
            budget=nodes[share.node].budget,
        )
        for share in shares
    )
    prefill, decode, guessed = _expected(card, nodes, parts)
    return Plan(
        model=card.id,
        layers=card.layers,
        parts=parts,
        exact=all(footprints(nodes[share.node]).exact for share in shares),
        prefill=prefill,
        decode=decode,
        guessed=guessed,
        problem="; ".join(_too_much(part, card) for part in parts if not part.fits),
    )


def _expected(
    card: ModelCard, nodes: Mapping[str, Node], parts: Sequence[Part]
) -> tuple[float | None, float | None, str]:
    """Tokens per second read and written by one request, and what they are made of unless measured.

    What a node measures counts for a whole model only: of one in parts it does not say which. For those the
    times of the parts are added, as one request is in one of them at a time, each guessed from its bytes; the
    way between the nodes is not counted.
    """
    if len(parts) == 1:
        node = nodes[parts[0].node]
        measured = next((speed for speed in node.speeds if speed.model == card.id), None)
        if measured and measured.decode:
            return measured.prefill or None, measured.decode, ""
        guess, source = Known(list(nodes.values())).speed(node, card.id, parts[0].bytes)
        return guess.prefill, guess.decode, source
    kinds = sorted({nodes[part.node].device.kind for part in parts})
    guesses = [Known(()).speed(nodes[part.node], card.id, part.bytes)[0] for part in parts]
    return (
        1 / sum(1 / guess.prefill for guess in guesses),
        1 / sum(1 / guess.decode for guess in guesses),
        f"speed guessed, as is typical of {' and '.join(kinds)}; the network between them is not counted",
    )


def _too_much(part: Part, card: ModelCard) -> str:
    what = f"layers {part.span} take" if 0 < len(part.span) < card.layers else f"'{card.id}' takes"
    return (
        f"{what} about {part.bytes / 1e6:,.0f} MB, and node {part.node} may use {part.budget / 1e6:,.0f} MB"
    )
