"""Plans for models in parts, from what is on this disk and what the nodes say of themselves."""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from exo import partition
from exo.cards import Dtype, ModelCard, Share, Span
from exo.errors import BadRequest, EngineFailed, ModelNotFound
from exo.nodes import Cluster, Kind, Node
from exo.partition import Footprint, Footprints, Plan
from exo.store import checkpoint
from exo.store.catalogue import Catalogue
from exo.store.checkpoint import Place

log = logging.getLogger(__name__)

# As safetensors names them: what an engine widens to compute with. Quantized weights stay as they are.
_FLOATS = frozenset({"BF16", "F16", "F32"})
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
        self._footprints: dict[tuple[Path, int, int, int], Footprints] = {}

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

    def offered(self, card: ModelCard) -> ModelCard:
        """A card of this disk as this node says it: with the split that the model has now, if it has one."""
        if card.format != "safetensors":
            return card
        cluster = self._cluster()
        by_hand = self._decided(card.id, cluster)
        holders = partition.able((cluster.me, *cluster.peers), card.id)
        if not by_hand and card.memory <= max((node.budget for node in holders), default=0):
            return card
        try:
            shares = self._planned(card, cluster, by_hand).shares
        except BadRequest as error:  # whoever asks for the model is told so, too
            log.debug("%s", error.message)
            shares = tuple(by_hand)
        except EngineFailed as error:  # its files have gone since the last scan
            log.debug("%s", error.message)
            return card
        if len(shares) < 2:
            return card
        own = next((share.span for share in shares if share.node == cluster.me.id), None)
        memory = self._footprints_of(card)(cluster.me).of(own) if own else card.memory
        return msgspec.structs.replace(card, split=shares, memory=memory)

    def folder(self, model: str) -> Path | None:
        """The model's folder of safetensors on this disk, of which some files may be missing."""
        card, path = self._shelf.on_disk.get(model, (None, None))
        return path if card and card.format == "safetensors" else self._shelf.partial.get(model)

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
        return partition.plan(card, sizes, wider) if plan.problem and len(wider) > len(holders) else plan

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
        return self._footprints[key]


def footprints(folder: Path, *, slots: int, context: int, dtype: Dtype) -> Footprints:
    """What the model of a whole folder takes on a node, by its kind. Raises `EngineFailed` as
    `checkpoint.read` and `checkpoint.tensors` do."""
    config, places = checkpoint.read(folder), checkpoint.tensors(folder)
    around = checkpoint.needed(places, Span(0, 0), ends=True, tied=config.tied)
    by_layer = [
        checkpoint.needed(places, Span(layer, layer + 1), ends=False, tied=config.tied)
        for layer in range(config.layers)
    ]

    def computed_with(width: int | None) -> Footprint:
        weights = None if config.quantization else width
        return Footprint(
            layers=tuple(sum(_memory(places[name], weights) for name in names) for names in by_layer),
            ends=sum(_memory(places[name], weights) for name in around),
            cache=slots * context * checkpoint.kv_bytes(config, width or 2),
        )

    told = _WIDTHS.get(dtype)
    on_cpu, elsewhere = computed_with(told or 4), computed_with(told)
    return lambda node: on_cpu if node.device.kind in CPUS else elsewhere


def needs(folder: Path, span: Span, kind: Kind, *, slots: int, context: int, dtype: Dtype) -> int:
    """Bytes of a part without the ends, on a node of this kind, of whose files no others need be here. Raises
    as `footprints` does."""
    config, places = checkpoint.read(folder), checkpoint.tensors(folder)
    names = checkpoint.needed(places, span, ends=False, tied=config.tied)
    width = _WIDTHS.get(dtype) or (4 if kind in CPUS else None)
    weights = sum(_memory(places[name], None if config.quantization else width) for name in names)
    return weights + len(span) * slots * context * checkpoint.kv_bytes(config, width or 2)


def _memory(place: Place, width: int | None) -> int:
    if width and place.dtype in _FLOATS:
        return math.prod(place.shape) * width
    return place.bytes
