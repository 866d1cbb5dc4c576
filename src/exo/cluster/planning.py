"""Plans for models in parts, from what is on this disk and what the nodes say of themselves."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from exo.cards import Dtype, ModelCard, Progress, Share, Span
from exo.choice import partition
from exo.choice.partition import Footprint, Footprints, Plan
from exo.errors import BadRequest, EngineFailed, ModelNotFound
from exo.nodes import Cluster, Kind, Node
from exo.store import checkpoint
from exo.store.catalogue import Catalogue
from exo.store.checkpoint import Place

log = logging.getLogger(__name__)

# What has no GPU that an engine of layers could use, and computes in float32.
CPUS: frozenset[Kind] = frozenset({"cpu", "rockchip"})
_WIDTHS: Mapping[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


class Planner:
    """`by_hand` are the splits that the owner set, by model. All parts of a model are loaded with `slots`,
    `context` and `dtype`."""

    def __init__(
        self,
        shelf: Catalogue,
        cluster: Callable[[], Cluster],
        *,
        slots: int = 4,
        context: int | None = None,
        dtype: Dtype = "auto",
        by_hand: Mapping[str, Sequence[Share]] | None = None,
    ) -> None:
        self._shelf, self._cluster, self._by_hand = shelf, cluster, by_hand or {}
        self.slots, self._context, self.dtype = slots, context, dtype
        self._offered: Mapping[str, ModelCard] = {}
        self._found_with: tuple[object, ...] | None = None
        self._footprints: dict[tuple[Path, int, int, int], Callable[[Kind], Footprint]] = {}

    def cluster(self) -> Cluster:
        return self._cluster()

    async def plan(self, model: str, split: str = "") -> Plan:
        """Where the model's layers would go; `split` ("node1:0-13,node2:14-27") is kept to instead.

        Raises `ModelNotFound`, and `BadRequest` for a split that does not suit or a model of another server.
        """
        cluster = self._cluster()
        nodes = (cluster.me, *cluster.peers)
        card = self._card(model, nodes)
        if card.format in ("rkllm", "remote"):
            raise BadRequest(f"'{model}' is kept by another server, which loads it whole", param="model")
        by_hand = partition.parse(f"{model}={split}")[1] if split else self._decided(model, cluster)
        if card.format == "safetensors":
            return await asyncio.to_thread(self._planned, card, cluster, by_hand)
        if by_hand:
            raise BadRequest(
                f"'{model}' is {card.format} and cannot be split; safetensors can", param="split"
            )
        holders = [n for n in nodes if not n.leaving and model in {each.id for each in n.cards}]
        whole = partition.of_card(card)
        return partition.plan(card, lambda node: whole, holders)

    def offered(self) -> Mapping[str, ModelCard]:
        """The cards of this disk, by id, as this node says them: with the split that each model has now, if
        it has one. A model of which only some files are here is among them where it is split. What was
        found out is kept for as long as plans would come out the same."""
        cluster = self._cluster()
        nodes = [_lasting(node) for node in (cluster.me, *cluster.peers)]
        found_with: tuple[object, ...] | None = (nodes, self._shelf.on_disk, self._shelf.partial)
        if found_with != self._found_with:
            offered = {}
            for id, (card, _) in self._shelf.on_disk.items():
                try:
                    offered[id] = self._as_split(card, cluster)
                except EngineFailed as error:  # its files have gone since the last scan, and may come back
                    log.debug("%s", error.message)
                    offered[id], found_with = card, None
            for part, _ in self._shelf.partial.values():
                if part and (said := self._as_split(part, cluster)).split:
                    offered[part.id] = said
            self._offered, self._found_with = offered, found_with
        return self._offered

    def _as_split(self, card: ModelCard, cluster: Cluster) -> ModelCard:
        if card.format != "safetensors":
            return card
        by_hand = self._decided(card.id, cluster)
        with_all = [
            node
            for node in partition.able((cluster.me, *cluster.peers), card.id)
            if any(each.id == card.id and each.whole for each in node.cards)
        ]
        if not by_hand and card.memory <= max((node.budget for node in with_all), default=0):
            return card
        try:
            shares = self._planned(card, cluster, by_hand).shares
        except BadRequest as error:  # whoever asks for the model is told so, too
            log.debug("%s", error.message)
            shares = tuple(by_hand)
        if len(shares) < 2:
            return card
        own = next((share.span for share in shares if share.node == cluster.me.id), None)
        memory = self._footprints_of(card)(cluster.me).of(own) if own else card.memory
        return msgspec.structs.replace(card, split=shares, memory=memory)

    def folder(self, model: str) -> Path | None:
        """The model's folder of safetensors on this disk, of which some files may be missing."""
        card, path = self._shelf.on_disk.get(model, (None, None))
        if card and card.format == "safetensors":
            return path
        return self._shelf.partial[model][1] if model in self._shelf.partial else None

    def fetch_first(self, model: str, span: Span) -> AsyncGenerator[Progress, None]:
        """Downloads what is missing here of a part with the ends. Raises as `Catalogue.pull_part` does."""
        return self._shelf.pull_part(model, span, ends=True)

    def context(self, card: ModelCard) -> int:
        """Tokens of each slot."""
        return min(card.context, self._context or card.context)

    def _card(self, model: str, nodes: Sequence[Node]) -> ModelCard:
        """The model's card, if possible one with layers; every node reads the same off the same files."""
        cards = [card for node in nodes for card in node.cards if card.id == model]
        layered = [card for card in cards if card.format == "safetensors"]
        if not cards:
            raise ModelNotFound(f"model '{model}' is on none of the nodes", param="model")
        return (layered or cards)[0]

    def _decided(self, model: str, cluster: Cluster) -> Sequence[Share]:
        """The split that this node's owner has set, or else the one of a node that answers for the model."""
        if model in self._by_hand:
            return self._by_hand[model]
        said = [
            (peer.budget, peer.id, card.split)
            for peer in cluster.peers
            for card in peer.cards
            if card.id == model and card.split and card.split[0].node == peer.id
        ]
        return max(said, key=lambda each: each[:2])[2] if said else ()

    def _planned(self, card: ModelCard, cluster: Cluster, by_hand: Sequence[Share]) -> Plan:
        """Over the nodes that have the files, or if that is not enough also over those that can get them."""
        sizes = self._footprints_of(card)
        nodes = (cluster.me, *cluster.peers)
        holders = partition.able(nodes, card.id)
        wider = partition.able(nodes, card.id, on_the_hub=self._shelf.on_the_hub(card.id))
        if by_hand:
            return partition.plan(card, sizes, wider, by_hand)
        plan = partition.plan(card, sizes, holders)
        if plan.problem and len(wider) > len(holders):
            return partition.plan(card, sizes, wider)
        return plan

    def _footprints_of(self, card: ModelCard) -> Footprints:
        folder = self.folder(card.id)
        if folder is None or card.id in self._shelf.partial:
            estimate = partition.of_card(card)
            return lambda node: estimate
        context = self.context(card)
        # Files that are replaced are another model.
        key = (folder, context, card.bytes, card.created)
        if key not in self._footprints:
            self._footprints[key] = footprints(folder, slots=self.slots, context=context, dtype=self.dtype)
        by_kind = self._footprints[key]
        return lambda node: by_kind(node.device.kind)


def _lasting(node: Node) -> Node:
    """What of a node does not change from second to second. No plan depends on the rest."""
    device = msgspec.structs.replace(node.device, free=0, temperature=None, npu_load=None)
    return msgspec.structs.replace(node, device=device, loaded=(), waiting=0, speeds=(), prefixes=())


def footprints(folder: Path, *, slots: int, context: int, dtype: Dtype) -> Callable[[Kind], Footprint]:
    """What the model in a folder takes on a node, by its kind. Of a folder that lacks files, only the layers
    whose files are here count. Raises `EngineFailed` as `checkpoint.read` and `checkpoint.tensors` do."""
    config, places = checkpoint.read(folder), checkpoint.tensors(folder)

    def part(span: Span, *, ends: bool) -> list[Place]:
        return [places[name] for name in checkpoint.needed(places, span, ends=ends, tied=config.tied)]

    around = part(Span(0, 0), ends=True)
    layers = [part(Span(layer, layer + 1), ends=False) for layer in range(config.layers)]

    def computed_with(width: int | None) -> Footprint:
        return Footprint(
            layers=tuple(checkpoint.weight_bytes(config, layer, width) for layer in layers),
            ends=checkpoint.weight_bytes(config, around, width),
            cache=slots * context * checkpoint.kv_bytes(config, width or 2),
        )

    told = _WIDTHS.get(dtype)
    on_cpu, elsewhere = computed_with(told or 4), computed_with(told)
    return lambda kind: on_cpu if kind in CPUS else elsewhere


def needs(folder: Path, span: Span, kind: Kind, *, slots: int, context: int, dtype: Dtype) -> int:
    """Bytes of a part without the ends, on a node of this kind, of whose files no others need be here. Raises
    as `footprints` does."""
    of_kind = footprints(folder, slots=slots, context=context, dtype=dtype)(kind)
    return msgspec.structs.replace(of_kind, ends=0).of(span)
