"""What a diagnosis is to look at, as one value: made by the command, of options and the environment."""

import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from exo.settings import TlsSettings, UpstreamSettings


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """`root` is "/", or a copy of a machine's /proc, /sys and /dev. `home` is the node's folder, with models
    in `folders`.

    `url` is the node to ask, with `key` and by what `trust` trusts and shows, and `asked_for` if somebody
    named it; `host` is what one that starts here would listen on, and `tls` the files of its HTTPS. `unknown`
    are complaints about the environment, `faults` those about the configuration. `named` are other nodes
    ("host" or "host:port" of their cluster port), and so are `routers` and those in `manual_file`. `memory`
    is for all models together, None for a node's own choice; each gets `slots` and `context`, 0 for the
    model's own.
    """

    root: Path = Path("/")
    home: Path
    folders: tuple[Path, ...]
    host: str = "0.0.0.0"
    url: str
    asked_for: bool = False
    key: str | None = None
    trust: ssl.SSLContext | None = None
    tls: TlsSettings | None = None
    secret: str = ""
    environment: Mapping[str, str] = {}
    unknown: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    cluster_port: int = 7447
    named: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    manual_file: Path | None = None
    servers: tuple[UpstreamSettings, ...] = ()
    memory: int | None = None
    slots: int = 4
    context: int = 8192
    npu_doctor: tuple[str, ...] = (sys.executable, "-m", "rkllama.main", "doctor", "--json")
