"""Who is there, and what each says of itself."""

import msgspec

from exo.cards import ModelCard


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The machine a node runs on. `memory` is in bytes."""

    name: str
    cores: int
    memory: int


class Residence(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is in memory, or on its way in or out of it. `used` grows with every use on its node: the
    greatest is the most recent. `expires_in` is in seconds, None while it is used or where it may stay for
    ever."""

    model: str
    state: str
    bytes: int
    slots: int
    running: int
    used: int = 0
    expires_in: float | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One `exo` process: what it holds, what it has in memory, and how many requests wait there."""

    id: str
    url: str
    version: str
    device: Device
    cards: tuple[ModelCard, ...]
    loaded: tuple[Residence, ...]
    waiting: int


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes as this one sees them."""

    me: Node
    peers: tuple[Node, ...] = ()
