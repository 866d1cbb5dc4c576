"""Who is there, and what each says of itself."""

from typing import Literal, TypeAlias

import msgspec

from exo.cards import ModelCard

Kind: TypeAlias = Literal["rockchip", "apple", "nvidia", "amd", "cpu"]


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The machine a node runs on, as far as it is known. `memory` is in bytes, of which `free` could be
    used now; `chip` is its maker's name for what computes ("RK3588", "Apple M2", "NVIDIA H200").
    `temperature` is in °C, `npu_load` from 0 to 1."""

    name: str
    cores: int
    memory: int
    kind: Kind = "cpu"
    chip: str = ""
    free: int = 0
    temperature: float | None = None
    npu_load: float | None = None


class Residence(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is in memory, or on its way in or out of it, and the requests for it.

    `used` grows with every use of any model on the node: the largest is the latest. `idle` is for how many
    seconds nobody has used it, and in `expires_in` seconds it leaves; None while it is used, and where it may
    stay for ever.
    """

    model: str
    state: str
    bytes: int
    slots: int
    running: int
    waiting: int = 0
    used: int = 0
    idle: float | None = None
    expires_in: float | None = None


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a model is on a node, as measured there: tokens per second read and written by one request,
    seconds to load it, and the mean tokens of its answers, and of the thoughts of those that have any. 0 is
    not known yet."""

    model: str
    prefill: float = 0.0
    decode: float = 0.0
    load: float = 0.0
    answer: float = 0.0
    thought: float = 0.0


class Prefix(msgspec.Struct, frozen=True):
    """Beginnings of conversations that are in a model's KV cache on a node, as `routing.prefixes` hashes
    them."""

    model: str
    hashes: tuple[int, ...]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One `exo` process: what it holds, what it has in memory, and how many requests wait there.

    `budget` is the bytes that all its models together may take, `queue` how many requests may wait.
    `leaving` nodes answer what they have, and are sent nothing new. `addresses` are those of its machine that
    others may reach; `url` has one of them. Its engines load `formats`, also of models that are not here yet.
    `npu_servers` are the URLs of those whose models it offers, as they are called on its own machine. Clients
    ask it at `api`, which may be `url`; "" is a release that does not say.
    """

    id: str
    url: str
    version: str
    device: Device
    cards: tuple[ModelCard, ...]
    loaded: tuple[Residence, ...]
    waiting: int
    queue: int = 64
    budget: int = 0
    speeds: tuple[Speed, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    leaving: bool = False
    addresses: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    npu_servers: tuple[str, ...] = ()
    api: str = ""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes as this one sees them."""

    me: Node
    peers: tuple[Node, ...] = ()
