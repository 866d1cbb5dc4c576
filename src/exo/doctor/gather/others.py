"""What other processes say: the running node, its peers, the NPU server, `rkllama doctor`."""

import asyncio
import email.utils
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from exo import devices
from exo.choice.nearest import nearest
from exo.cluster import discovery
from exo.doctor.evidence import Named, Peer, RunningNode, Server
from exo.doctor.finding import Finding
from exo.doctor.gather import probe
from exo.doctor.gather.scope import Scope
from exo.errors import BadRequest, ConnectionLost, EngineFailed, ExoError, NotFound, NotReady, Unauthorized
from exo.nodes import Cluster, Node
from exo.settings import UpstreamSettings

if TYPE_CHECKING:
    import ssl

    from exo.http.remote import Remote

# Seconds of silence after which a server is not there, for one question of a few.
_SILENCE = 1.0
# Peers that are asked: a large cluster's are all alike.
_MOST_PEERS = 32


class _Findings(msgspec.Struct):
    """Of what `rkllama doctor --json` prints."""

    findings: tuple[Finding, ...]


async def running_node(scope: Scope) -> RunningNode:
    """The node at the scope's address, and its peers' APIs. A node that is not there is no failure."""
    from exo.http.remote import Remote

    remote = Remote(scope.url, key=scope.key, silence=_SILENCE, tls=scope.trust)
    keyless = Remote(scope.url, silence=_SILENCE, tls=scope.trust)
    try:
        try:
            cluster = msgspec.json.decode(await remote.get("/v1/cluster"), type=Cluster)
        except ExoError as error:
            lost = error.message
            if isinstance(error, Unauthorized):
                lost = f"{scope.url} asks for a key: {error.message}"
            if isinstance(error, ConnectionLost) and scope.url.startswith("https:"):
                lost = f"{error.message}; it may ask for a certificate"
            return RunningNode(url=scope.url, asked_for=scope.asked_for, problem=lost)
        except msgspec.DecodeError:
            lost = f"what answers at {scope.url} is no node of exo"
            return RunningNode(url=scope.url, asked_for=scope.asked_for, problem=lost)
        not_ready, (requests, failed), open, peers = await asyncio.gather(
            _not_ready(remote), _requests(remote), _answers(keyless), _peers(scope, cluster)
        )
    finally:
        await remote.close()
        await keyless.close()
    me = cluster.me
    return RunningNode(
        url=scope.url,
        asked_for=scope.asked_for,
        id=me.id,
        version=me.version,
        addresses=me.addresses,
        budget=me.budget,
        not_ready=not_ready,
        keyless=open,
        requests=requests,
        failed=failed,
        peers=peers,
    )


async def named(scope: Scope) -> tuple[Named, ...]:
    """The nodes that the owner named, and whether somebody listens at their cluster ports."""
    wanted = {discovery.address(each, scope.cluster_port) for each in scope.named}
    routers = {discovery.address(each, scope.cluster_port) for each in scope.routers}
    broken: tuple[Named, ...] = ()
    if (file := scope.manual_file) is not None:
        try:
            content = await probe.in_thread(file.read_bytes)
            wanted |= discovery.parse_manual(content, "", scope.cluster_port)
        except (OSError, BadRequest) as error:
            why = error.message if isinstance(error, BadRequest) else str(error.strerror)
            broken = (Named(str(file), problem=why, kind="file"),)
    found = await asyncio.gather(*map(_named, sorted(wanted | routers)))
    return broken + tuple(
        msgspec.structs.replace(each, kind="router") if each.address in routers else each for each in found
    )


async def servers(scope: Scope) -> tuple[Server, ...]:
    """The servers whose models a node here would offer, asked as it would ask them."""
    return tuple(await asyncio.gather(*map(_server, scope.servers)))


async def board(scope: Scope) -> tuple[Finding, ...]:
    """What `rkllama doctor` finds on a machine with an NPU, in a process of its own; () elsewhere. Raises
    `EngineFailed` where it says nothing."""
    npu = devices.detect(scope.root).kind == "rockchip" or (scope.root / "dev/rknpu").exists()
    if not npu:
        return ()
    code, out, said = await probe.program(*scope.npu_doctor)
    try:
        return msgspec.json.decode(out, type=_Findings).findings
    except msgspec.DecodeError as error:
        raise EngineFailed(f"rkllama doctor failed: {probe.ending(code, said)}") from error


# The node


async def _not_ready(remote: "Remote") -> str | None:
    try:
        await remote.get("/ready")
    except NotReady as error:
        return error.message
    return None


async def _answers(remote: "Remote") -> bool:
    """Whether it lists its models to whoever has no key."""
    try:
        await remote.get("/v1/models")
    except Unauthorized:
        return False
    return True


async def _requests(remote: "Remote") -> tuple[int, int]:
    """Those that it has answered or refused, and those of them that failed."""
    from prometheus_client.parser import text_string_to_metric_families

    text = (await remote.get("/metrics")).decode()
    counts: dict[str, float] = {"exo_requests_total": 0.0, "exo_errors_total": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in counts:
                counts[sample.name] += sample.value
    return int(counts["exo_requests_total"]), int(counts["exo_errors_total"])


async def _peers(scope: Scope, cluster: Cluster) -> tuple[Peer, ...]:
    tls = await probe.in_thread(lambda: _tls(scope.home / "cluster"))
    return tuple(
        await asyncio.gather(
            *(
                _peer(node, cluster.me, tls, ask=place < _MOST_PEERS)
                for place, node in enumerate(cluster.peers)
            )
        )
    )


async def _peer(node: Node, me: Node, tls: "ssl.SSLContext | None", *, ask: bool) -> Peer:
    import aiohttp

    url = nearest(node.url, node.addresses, me.addresses)
    problem, ahead = None, None
    # Without a certificate to show, a peer that wants one is not asked.
    if ask and (tls is not None or url.startswith("http:")):
        try:
            ahead = await _ahead(url, tls)
        except TimeoutError:
            problem = f"nothing answers at {url} within {_SILENCE:g} s"
        except aiohttp.ClientConnectorError as error:
            problem = f"{url}: {_reason(error.os_error)}"
        except aiohttp.ClientError as error:
            problem = f"{url}: {error or type(error).__name__}"
    return Peer(
        id=node.id,
        url=url,
        version=node.version,
        addresses=node.addresses,
        leaving=node.leaving,
        problem=problem,
        ahead=ahead,
    )


async def _ahead(url: str, tls: "ssl.SSLContext | None") -> float | None:
    """Seconds that the clock over there is ahead of ours, within a second; None where it does not say."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_SILENCE)
    connector = aiohttp.TCPConnector(ssl=tls or True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        asked = time.time()
        async with session.get(f"{url}/healthcheck") as answer:
            said = answer.headers.get("Date", "")
        between = (asked + time.time()) / 2
    try:
        theirs = email.utils.parsedate_to_datetime(said).timestamp()
    except (ValueError, TypeError):
        return None
    # A date is in whole seconds, and they are not rounded.
    return theirs + 0.5 - between


def _tls(folder: Path) -> "ssl.SSLContext | None":
    """What this machine shows to the nodes of its cluster, if it has certificates of it."""
    from exo.cluster.certificates import tls_files
    from exo.http.tls import client_context

    files = tls_files(folder)
    there = files.ca.exists() and files.certificate.exists() and files.key.exists()
    return client_context(files.ca, files.certificate, files.key) if there else None


async def _named(address: str) -> Named:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    hosts: tuple[str, ...] = ()
    try:
        async with asyncio.timeout(_SILENCE):
            loop = asyncio.get_running_loop()
            hosts = tuple({str(each[4][0]) for each in await loop.getaddrinfo(host, int(port))})
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
    except TimeoutError:
        return Named(address, hosts, f"nothing answers within {_SILENCE:g} s")
    except OSError as error:
        return Named(address, hosts, _reason(error))
    return Named(address, hosts)


def _reason(error: OSError) -> str:
    """In the system's words; asyncio has its own for what the system calls "Connection refused"."""
    if error.errno is not None and error.errno > 0:  # those of names are negative, and no errno
        return os.strerror(error.errno)
    return str(error.strerror or error)


# Servers behind the node


async def _server(settings: UpstreamSettings) -> Server:
    from exo.http.remote import Remote

    url, npu = settings.url, settings.kind == "rkllm"
    remote = Remote(url, key=settings.key, silence=_SILENCE)
    try:
        dialect, models = await _models(remote)
        return Server(url=url, npu=npu, dialect=dialect, release=await _release(remote), models=models)
    except ExoError as error:
        return Server(url=url, npu=npu, problem=error.message)
    finally:
        await remote.close()


async def _models(remote: "Remote") -> tuple[str, tuple[str, ...]]:
    """Its dialect and its models' names, as `http.upstream` tells them. Raises as `Remote.get` does."""
    from exo.wire import openai

    try:
        cards = openai.decode_models(await remote.get("/v1/models"), "rkllm")
        return "openai", tuple(card.id for card in cards)
    except NotFound:
        answer = await remote.get("/models")
    try:
        return "original", msgspec.json.decode(answer, type=_Models).models
    except msgspec.DecodeError as error:
        raise EngineFailed(f"what answers at {remote.url} is no server of models") from error


async def _release(remote: "Remote") -> str:
    """What it calls itself, "rkllama 0.1.0"; "" where it does not."""
    try:
        said = msgspec.json.decode(await remote.get("/"), type=Mapping[str, object])
    except (ExoError, msgspec.DecodeError):
        return ""  # the first one greets with a sentence
    return " ".join(str(said[name]) for name in ("name", "version") if name in said)


class _Models(msgspec.Struct):
    models: tuple[str, ...]
