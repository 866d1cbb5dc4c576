"""Where other nodes may listen: addresses given, read from a file, or asked of Tailscale.

An address is "host:port" here, with an IPv6 host in brackets; session.py puts the protocol before it.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from exo.cluster.settings import ClusterSettings
from exo.errors import BadRequest, NotReady

log = logging.getLogger(__name__)

# Seconds that the `tailscale` program may take to answer.
_TAILSCALE_PATIENCE = 10.0


class Source(Protocol):
    """Addresses to connect to, which may change."""

    interval: float
    """Seconds after which it is worth reading again."""

    async def read(self) -> frozenset[str]:
        """The addresses now. The first time, raises `NotReady` for what can only be put right by the owner;
        later that is logged, once, and what was read last holds."""


def source(settings: ClusterSettings, me: str) -> Source:
    """What the settings say; `me` is this node's id. Raises `BadRequest` for settings that do not go
    together or an address that is none."""
    given = frozenset(address(peer, settings.port) for peer in settings.peers)
    if settings.discovery == "manual":
        if settings.manual_file is None:
            raise BadRequest("manual discovery needs a file that names the other nodes")
        return ManualFile(settings.manual_file, me, settings.port, given)
    if settings.discovery == "tailscale":
        return Tailscale(settings.port, given)
    return Given(given)


class Given:
    """Addresses that stay as they are."""

    interval = 3600.0

    def __init__(self, given: frozenset[str]) -> None:
        self._given = given

    async def read(self) -> frozenset[str]:
        return self._given


class ManualFile:
    """A file that names all nodes, read again when it changes. This node's own entry is left out, so that
    all machines can have the same file."""

    interval = 1.0

    def __init__(self, path: Path, me: str, port: int, given: frozenset[str] = frozenset()) -> None:
        self._path, self._me, self._port, self._given = path, me, port, given
        self._stamp: tuple[int, int, int] | None = None
        self._found: frozenset[str] | None = None
        self._complaint = ""

    async def read(self) -> frozenset[str]:
        try:
            self._look()
        except (OSError, BadRequest) as error:
            reason = error.message if isinstance(error, BadRequest) else str(error.strerror)
            complaint = f"{self._path}, the file of manual discovery: {reason}"
            if self._found is None:
                raise NotReady(complaint) from error
            if complaint != self._complaint:
                log.warning("%s; what it said before holds", complaint)
            self._complaint = complaint
        else:
            self._complaint = ""
        assert self._found is not None
        return self._found | self._given

    def _look(self) -> None:
        stat = self._path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if stamp != self._stamp or self._complaint:
            self._found = parse_manual(self._path.read_bytes(), self._me, self._port)
            self._stamp = stamp


class Tailscale:
    """The machines of the tailnet that are online, as the `tailscale` program says."""

    interval = 15.0

    def __init__(self, port: int, given: frozenset[str] = frozenset()) -> None:
        self._port, self._given = port, given
        self._found: frozenset[str] = frozenset()
        self._asked = False
        self._complaint = ""

    async def read(self) -> frozenset[str]:
        program = shutil.which("tailscale")
        missing = NotReady("discovery by Tailscale needs the program 'tailscale', which is not on the PATH")
        if program is None and not self._asked:
            raise missing
        self._asked = True
        try:
            if program is None:
                raise missing
            self._found = parse_tailscale(await _output(program, "status", "--json"), self._port)
        except NotReady as error:
            # Tailscale may come up after this node, so it is asked again even if the first answer is none.
            if error.message != self._complaint:
                log.warning("%s; it is asked again every %g s", error.message, self.interval)
            self._complaint = error.message
        else:
            self._complaint = ""
        return self._found | self._given


async def _output(*command: str) -> bytes:
    name = " ".join(["tailscale", *command[1:]])
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TAILSCALE_PATIENCE):
            out, said = await process.communicate()
    except TimeoutError:
        raise NotReady(f"'{name}' did not answer within {_TAILSCALE_PATIENCE:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise NotReady(f"'{name}' failed: {said.decode(errors='replace').strip() or process.returncode}")
    return out


# Parsing


class _ManualPeer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    port: int | None = None
    # Told by the node itself now.
    device_capabilities: Any = None


class _Manual(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peers: dict[str, _ManualPeer]


class _TailscalePeer(msgspec.Struct, frozen=True):
    Online: bool = False
    TailscaleIPs: list[str] | None = None


class _Tailscale(msgspec.Struct, frozen=True):
    """Of `ipnstate.Status` in Tailscale's source, which its program prints."""

    BackendState: str
    # Missing where the machine is alone.
    Peer: dict[str, _TailscalePeer] | None = None


def parse_manual(content: bytes, me: str, port: int) -> frozenset[str]:
    """The original's file: {"peers": {id: {"address": …, "port": …, "device_capabilities": {…}}}}, where the
    port may be left out and the capabilities are not needed. Raises `BadRequest`."""
    try:
        peers = msgspec.json.decode(content, type=_Manual).peers
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not as it should be: {error}") from error
    return frozenset(
        address(_joined(peer.address, peer.port or port), port) for id, peer in peers.items() if id != me
    )


def parse_tailscale(content: bytes, port: int) -> frozenset[str]:
    """Addresses of the peers online in the output of `tailscale status --json`. Raises `NotReady`."""
    try:
        status = msgspec.json.decode(content, type=_Tailscale)
    except (ValueError, RecursionError) as error:
        raise NotReady(f"'tailscale status --json' printed what this version cannot read: {error}") from error
    if status.BackendState != "Running":
        raise NotReady(f"Tailscale is not up on this machine ({status.BackendState}); run 'tailscale up'")
    online: Iterable[_TailscalePeer] = (peer for peer in (status.Peer or {}).values() if peer.Online)
    return frozenset(_joined(peer.TailscaleIPs[0], port) for peer in online if peer.TailscaleIPs)


def address(peer: str, port: int) -> str:
    """A host, "host:port", or an IPv6 address with or without brackets and port, as "host:port"; `port` is
    for those without. Raises `BadRequest`."""
    text = peer.strip()
    host, separator, tail = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, tail = text[1:-1], str(port)
    elif not separator or (":" in host and not host.endswith("]")):
        host, tail = text, str(port)
    host = host.removeprefix("[").removesuffix("]")
    plain = tail.isascii() and tail.isdigit() and 0 < int(tail) < 1 << 16
    if not host or not plain or any(each.isspace() or each in '/#?"[]' for each in host):
        raise BadRequest(f"'{peer}' is no address of a node; give a host or host:port", param="peers")
    return _joined(host, int(tail))


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
