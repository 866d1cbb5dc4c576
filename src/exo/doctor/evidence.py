"""All that a diagnosis of a machine is made of, as plain values: what `gather` found, and `examine` judges.

Sizes are in bytes, times in seconds. Nothing here is secret: of keys there is only whether they are set.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from exo.doctor.finding import Finding


class Unread(msgspec.Struct, frozen=True):
    """Something that could not be looked at, and why."""

    what: str
    why: str


class Package(msgspec.Struct, frozen=True):
    """An installed package next to what exo wants of it; `installed` is None where it is missing."""

    name: str
    wanted: str
    installed: str | None


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """The interpreter, and exo in it. `installed` is the package's release by its own record, None where
    there is none; of `packages` only those that do not fit. `lost` counts files of the package that are
    gone."""

    python: tuple[int, ...]
    bits: int
    prefix: str
    virtual: bool
    exo: str
    installed: str | None
    lost: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of exo's, and why it cannot run here. `there`: its package is installed. `formats` are the
    models it is for."""

    name: str
    there: bool
    formats: tuple[str, ...]
    problem: str | None = None


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """Where models are kept. `problem` says why nothing can be written there; a folder that is not there
    counts as its nearest parent that is. `kind` is what it lies on, where that is known to be slow."""

    folder: str
    exists: bool
    free: int
    total: int
    free_files: int | None = None
    problem: str | None = None
    kind: Literal["", "SD card", "eMMC", "hard disk"] = ""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """`usable` and `cores` are what this process may have of `total` and `cpus`, by control groups; 0 is
    not known. `budget` is what all models together may take. `killed` are programs that the kernel ended for
    want of memory since the machine started, None where its log cannot be read."""

    total: int
    usable: int
    free: int
    swap_total: int
    swap_free: int
    cores: int
    cpus: int
    budget: int
    killed: tuple[str, ...] | None = None


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port that exo or rkllama would listen on. `owner` is the program that has it ("python3 (pid 12)"), ""
    where nobody has, None where that is another user's to know. `ours`: it is a node's or an NPU server's."""

    number: int
    use: str
    protocol: Literal["tcp", "udp"] = "tcp"
    option: str = ""
    owner: str | None = ""
    ours: bool = False


class Multicast(msgspec.Struct, frozen=True):
    """An interface that does multicast, and why a datagram to a group did not come back on it."""

    interface: str
    address: str
    problem: str | None = None


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """`addresses` are those at which other machines reach this one. `firewall` is a rule that drops what
    comes in, "" where there is none, None where rules cannot be read."""

    addresses: tuple[str, ...] = ()
    multicast: tuple[Multicast, ...] = ()
    firewall: str | None = None


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another node, as the running one sees it. `problem` says why its API does not answer from here; `ahead`
    is how far its clock is ahead of ours, in seconds. Of a large cluster only some are asked."""

    id: str
    url: str
    version: str
    addresses: tuple[str, ...] = ()
    leaving: bool = False
    problem: str | None = None
    ahead: float | None = None


class RunningNode(msgspec.Struct, frozen=True, kw_only=True):
    """The node that was asked. `problem` says why it does not answer; then all else is empty. `not_ready` is
    in its own words. `keyless`: it answers whoever has no key. Of requests, those since it started."""

    url: str
    asked_for: bool
    problem: str | None = None
    id: str = ""
    version: str = ""
    addresses: tuple[str, ...] = ()
    budget: int = 0
    not_ready: str | None = None
    keyless: bool = False
    requests: int = 0
    failed: int = 0
    peers: tuple[Peer, ...] = ()


class Named(msgspec.Struct, frozen=True):
    """A node or router that the owner named ("host:port" of its cluster port), and why that port does not
    answer; or the file that names nodes, and why it cannot be used. `hosts` are the addresses that a name
    stands for."""

    address: str
    hosts: tuple[str, ...] = ()
    problem: str | None = None
    kind: Literal["node", "router", "file"] = "node"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server whose models a node here offers: the NPU server, or any other one. `dialect` is "openai", or
    "original" for the first rkllama's; `release` is what it calls itself."""

    url: str
    npu: bool
    problem: str | None = None
    dialect: str = ""
    release: str = ""
    models: tuple[str, ...] = ()


class Clock(msgspec.Struct, frozen=True):
    """`now` is in seconds since the epoch. `synchronised` by the network, None where nothing tells."""

    now: float
    synchronised: bool | None = None


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the owner's on the disk. `problem` says why no engine could load it. `memory` is what it
    takes with `context` tokens for each of its requests; `missing` are bytes that its header promises."""

    id: str
    path: str
    bytes: int
    format: str = ""
    memory: int = 0
    context: int = 0
    quantization: str = ""
    template: bool = True
    embeds: bool = False
    tokenizer: bool = True
    lacking: tuple[str, ...] = ()
    missing: int = 0
    problem: str | None = None


class Leftover(msgspec.Struct, frozen=True):
    """What a download has left; `under_way` if it goes on now."""

    id: str
    bytes: int
    under_way: bool


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """The owner's models. `strangers` are files and folders among them that are none, and why; `twice` are
    ids that several files have; `unseen` is how many there was no time for."""

    models: tuple[ModelFile, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    strangers: tuple[Unread, ...] = ()
    twice: tuple[str, ...] = ()
    unseen: int = 0


class Https(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate in `file`, which a node that is started here would show: who it is for, and the seconds
    it has `left`. `mutual`: clients have to show one, too. `problem` says why no node starts with it, and
    what to do."""

    file: str
    names: tuple[str, ...] = ()
    left: float = 0.0
    mutual: bool = False
    problem: str | None = None


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """What is set, and what lies open. `open_at` are addresses at which others would reach a node that is
    started here. `credentials` are problems of the cluster's certificates and secret, in plain words.
    `readable` are files with secrets that others may read, `shown` processes whose command line has one.
    `guessable` is EXO_API_KEY where it is short. `keys` is how many `exo key` has made, None where it has
    made none yet, and `keys_problem` why their file keeps a node from starting."""

    key: bool
    secret: bool
    certificates: bool
    root: bool
    open_at: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    guessable: bool = False
    keys: int | None = None
    keys_problem: str = ""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Environment and configuration. `unknown` are complaints about variables that nothing reads, `faults`
    what is wrong with the configuration. `proxies` by variable,
    without credentials; `past_proxy` are the hosts of `no_proxy`. `open_files` None is no limit."""

    unknown: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    proxies: Mapping[str, str] = {}
    past_proxy: tuple[str, ...] = ()
    encoding: str = "utf-8"
    open_files: int | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is None could not be looked at, and `unread` says why. `board` are the findings of `rkllama
    doctor`, () on a machine without an NPU, and `https` is None where the API is plain HTTP."""

    software: Software | None = None
    engines: tuple[Engine, ...] = ()
    storage: Storage | None = None
    memory: Memory | None = None
    ports: tuple[Port, ...] = ()
    network: Network | None = None
    node: RunningNode | None = None
    named: tuple[Named, ...] = ()
    servers: tuple[Server, ...] = ()
    clock: Clock | None = None
    shelf: Shelf | None = None
    security: Security | None = None
    https: Https | None = None
    surroundings: Surroundings | None = None
    board: tuple[Finding, ...] = ()
    unread: tuple[Unread, ...] = ()
