"""Which model on which node answers a request. Pure."""

import difflib

import msgspec

from exo.cards import ModelCard
from exo.errors import ModelNotFound
from exo.nodes import Cluster, Node


class Route(msgspec.Struct, frozen=True):
    """Where a request goes, and the reasons in plain words."""

    node: Node
    card: ModelCard
    why: tuple[str, ...]


def choose(model: str, cluster: Cluster) -> Route:
    """Picks the node that answers for `model`, an id matched exactly.

    Raises `ModelNotFound` naming the nearest ids, or how to add a model where there is none.
    """
    me = cluster.me
    for card in me.cards:
        if card.id == model:
            return Route(me, card, (f"{model} is on this node",))
    raise ModelNotFound(_missing(model, [card.id for card in me.cards]), param="model")


def _missing(model: str, known: list[str]) -> str:
    if len(model) > 80:
        model = model[:79] + "…"
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
    if near:
        return f"model '{model}' is not here; did you mean {' or '.join(near)}?"
    if known:
        return f"model '{model}' is not here; there is {', '.join(sorted(known)[:10])}"
    return f"model '{model}' is not here, nor is any other; put a .gguf file into the models folder"
