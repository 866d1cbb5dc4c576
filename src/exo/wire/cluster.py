"""What is asked about the cluster and of it, as structs, and a client's side of it. Without I/O."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from exo.choice.auto import Picked
from exo.choice.routing import Route
from exo.errors import EngineFailed
from exo.nodes import Cluster, Device, Node
from exo.wire import openai
from exo.wire.json import Reader
from exo.wire.openai.request_types import ModelName, Sent

_MIB = 1 << 20


class LoadBody(Sent, frozen=True):
    """POST /v1/load."""

    model: ModelName


class SpreadBody(Sent, frozen=True):
    """POST /v1/spread: the model, and on how many nodes it is to be in memory."""

    model: ModelName
    nodes: Annotated[int, Meta(ge=1, le=1000)]


class LoadAnswer(Struct, frozen=True, kw_only=True):
    """`seconds` is what it took, the wait for memory included."""

    model: str
    node: str
    seconds: float


class Placement(Struct, frozen=True, kw_only=True):
    """What came of loading a model on one node; `reason` says why it failed."""

    node: str
    state: Literal["loaded", "failed"]
    seconds: float
    reason: str = ""


class SpreadAnswer(Struct, frozen=True, kw_only=True):
    """`loaded` of the `wanted` nodes have the model in memory. Where that is too few, `problem` says why in
    plain words, and is empty else."""

    model: str
    wanted: int
    loaded: int
    placements: tuple[Placement, ...]
    problem: str = ""


class RouteShown(Struct, frozen=True, kw_only=True):
    """A node that could answer: when it would have finished, in seconds from now, and the reasons."""

    node: str
    seconds: float
    why: tuple[str, ...]


class Choice(Struct, frozen=True, kw_only=True):
    """What was chosen for "auto": the probability that thinking pays, and the reasons."""

    kind: str
    thinking: bool | None
    probability: float
    why: tuple[str, ...]


class RoutesAnswer(Struct, frozen=True, kw_only=True):
    """The nodes that could answer a request for the model, best first, and why it is this model where "auto"
    was asked for."""

    model: str
    routes: tuple[RouteShown, ...]
    auto: Choice | UnsetType = UNSET


class Flops(Struct, frozen=True):
    """Not known here, so 0, as it was there for chips that were not in its table."""

    fp32: int = 0
    fp16: int = 0
    int8: int = 0


class Capabilities(Struct, frozen=True, kw_only=True):
    """`memory` is in MiB."""

    model: str
    chip: str
    memory: int
    flops: Flops = Flops()


class Link(Struct, frozen=True, kw_only=True):
    from_id: str
    to_id: str
    description: str = "HTTP"


class Topology(Struct, frozen=True, kw_only=True):
    """The cluster as the first exo-rkllama had it: every node is linked to every other one."""

    nodes: dict[str, Capabilities]
    peer_graph: dict[str, tuple[Link, ...]]
    active_node_id: str


_load, _spread = Reader(LoadBody), Reader(SpreadBody)

encode = msgspec.json.encode


def decode_load(body: bytes) -> LoadBody:
    """Raises `BadRequest` naming the key at fault."""
    return _load.read(body)


def decode_spread(body: bytes) -> SpreadBody:
    """Raises `BadRequest` naming the key at fault."""
    return _spread.read(body)


def routes_answer(model: str, routes: Sequence[Route], picked: Picked | None = None) -> bytes:
    shown = tuple(
        RouteShown(node=route.node.id, seconds=round(route.seconds, 3), why=route.why) for route in routes
    )
    auto: Choice | UnsetType = UNSET
    if picked:
        auto = Choice(
            kind=picked.kind,
            thinking=picked.thinking,
            probability=round(picked.probability, 3),
            why=picked.why,
        )
    return msgspec.json.encode(RoutesAnswer(model=model, routes=shown, auto=auto))


def cluster_event(cluster: Cluster) -> bytes:
    """One of the events that tell how the cluster changes."""
    return b"data: " + msgspec.json.encode(cluster) + b"\n\n"


def settled(cluster: Cluster) -> Cluster:
    """The cluster without what moves by itself, and without what says nothing to people. Where nothing else
    differs, a watcher can wait."""
    return Cluster(me=_settled(cluster.me), peers=tuple(map(_settled, cluster.peers)))


def topology_answer(cluster: Cluster) -> bytes:
    nodes = (cluster.me, *cluster.peers)
    ids = [node.id for node in nodes]
    return msgspec.json.encode(
        Topology(
            nodes={node.id: _capabilities(node.device) for node in nodes},
            peer_graph={id: tuple(_links(id, ids)) for id in ids},
            active_node_id=cluster.me.id,
        )
    )


def decode_spread_answer(body: bytes) -> SpreadAnswer:
    """Raises what the server's failure was, which may come with the status 200 after a long silence, and
    `EngineFailed` for what is neither."""
    _raise_failure(body)
    try:
        return msgspec.json.decode(body, type=SpreadAnswer)
    except (ValueError, RecursionError) as error:
        raise _not_understood(body) from error


def decode_load_answer(body: bytes) -> LoadAnswer:
    """Raises as `decode_spread_answer` does."""
    _raise_failure(body)
    try:
        return msgspec.json.decode(body, type=LoadAnswer)
    except (ValueError, RecursionError) as error:
        raise _not_understood(body) from error


def _raise_failure(body: bytes) -> None:
    try:
        said = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise _not_understood(body) from error
    if isinstance(said, dict) and "error" in said:
        raise openai.decode_error(200, body)


def _not_understood(body: bytes) -> EngineFailed:
    start = body.strip()[:200].decode(errors="replace")
    return EngineFailed(f"the node's answer is not understood: {start or 'it is empty'}")


def _settled(node: Node) -> Node:
    device = node.device
    return msgspec.structs.replace(
        node,
        device=Device(
            name=device.name, cores=device.cores, memory=device.memory, kind=device.kind, chip=device.chip
        ),
        loaded=tuple(
            msgspec.structs.replace(each, used=0, idle=None, expires_in=None) for each in node.loaded
        ),
        prefixes=(),
    )


def _links(id: str, ids: Iterable[str]) -> Iterable[Link]:
    return (Link(from_id=id, to_id=other) for other in ids if other != id)


def _capabilities(device: Device) -> Capabilities:
    return Capabilities(model=device.name, chip=device.chip or device.kind, memory=device.memory // _MIB)
