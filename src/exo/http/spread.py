"""One model on several nodes: which of them, and what came of it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from exo.choice.routing import Asked, Route
from exo.errors import ExoError, NotReady
from exo.http.desk import Served
from exo.nodes import Cluster, Node
from exo.wire.cluster import Placement, SpreadAnswer


@runtime_checkable
class LoadsElsewhere(Protocol):
    """What of `Served` stands for several machines."""

    async def load_at(self, node: Node, model: str, client: str = "") -> None:
        """Brings the model into memory on that node."""
        ...


async def spread(served: Served, model: str, wanted: int, client: str = "") -> SpreadAnswer:
    """Has `model` in memory on `wanted` nodes: on those that have it there, then where a request for it
    would end first. For a node on which it fails, the next best takes its place.

    Raises what `routing.explain` does where no node can load it, and `NotReady` with all reasons where it
    fails on each of them.
    """
    card = await served.card(model)
    candidates = in_order(card.id, served.explain(Asked(model=card.id)))
    left, placements = list(candidates), list[Placement]()
    while left and (missing := wanted - _loaded(placements)) > 0:
        batch, left = left[:missing], left[missing:]
        placements += await asyncio.gather(*(_place(served, node, card.id, client) for node in batch))
    if not _loaded(placements):
        reasons = "; ".join(f"{each.node}: {each.reason}" for each in placements)
        raise NotReady(f"no node could load model '{card.id}': {reasons}", param="model")
    return SpreadAnswer(
        model=card.id,
        wanted=wanted,
        loaded=_loaded(placements),
        placements=tuple(placements),
        problem=_problem(card.id, wanted, placements, candidates, served.cluster()),
    )


def in_order(model: str, routes: Sequence[Route]) -> tuple[Node, ...]:
    """The nodes of `routes`, those that have the model in memory before the others."""

    def must_load(node: Node) -> bool:
        return not any(r.model == model and r.state != "leaving" for r in node.loaded)

    return tuple(sorted((route.node for route in routes), key=must_load))


async def _place(served: Served, node: Node, model: str, client: str) -> Placement:
    began = time.monotonic()
    try:
        if node.id == served.cluster().me.id:
            await served.load(model, client)
        else:
            assert isinstance(served, LoadsElsewhere), "who has peers can ask them"
            await served.load_at(node, model, client)
    except ExoError as error:
        # It may quote the name of a file, which need not be valid text.
        reason = error.message.encode(errors="replace").decode()
        return Placement(node=node.id, state="failed", seconds=_since(began), reason=reason)
    return Placement(node=node.id, state="loaded", seconds=_since(began))


def _problem(
    model: str, wanted: int, placements: Sequence[Placement], candidates: Sequence[Node], cluster: Cluster
) -> str:
    """Why fewer nodes than wanted have the model; "" where enough have it."""
    if _loaded(placements) >= wanted:
        return ""
    able = {node.id for node in candidates}
    others = [node for node in (cluster.me, *cluster.peers) if node.id not in able]
    words = [f"{wanted} nodes were asked for, and {_loaded(placements)} can have it"]
    words += [f"{each.node}: {each.reason}" for each in placements if each.state == "failed"]
    for node in others:
        has = any(card.id == model for card in node.cards)
        words.append(f"{node.id}: {'cannot take it now' if has else 'the model is not on its disk'}")
    return "; ".join(words)


def _loaded(placements: Sequence[Placement]) -> int:
    return sum(each.state == "loaded" for each in placements)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
