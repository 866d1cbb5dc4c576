"""The running node, its ports, its peers, and the servers behind it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import exo
from exo.doctor.evidence import Evidence, Named, Network, Peer, Port, RunningNode, Server
from exo.doctor.finding import Finding

# A clock of a peer may be so far from ours, in seconds, before it is worth saying.
_APART = 5.0
_KEY = "Set EXO_API_KEY to the key that it was started with, or one that exo key add has made there."
_CERTIFICATE = "EXO_CA_FILE names the CA to trust, EXO_CLIENT_CERT and EXO_CLIENT_KEY what it is shown."
# Of so many requests at least this share has to fail, as some clients' always do.
_REQUESTS, _FAILED_SHARE = 20, 0.2


def examine(evidence: Evidence) -> Iterator[Finding]:
    node = evidence.node
    if node is not None:
        yield from _node(node)
    yield from _ports(
        evidence.ports, node, npu=bool(evidence.board) or any(each.npu for each in evidence.servers)
    )
    if evidence.network is not None:
        yield from _network(evidence.network, evidence.ports)
    if node is not None and node.problem is None:
        yield from _peers(node)
    yield from _named(evidence.named, evidence)
    yield from map(_server, evidence.servers)


def _node(node: RunningNode) -> Iterator[Finding]:
    if node.problem is not None:
        if node.asked_for:
            remedy = "Start it there, or name another one with --url."
            if "asks for a key" in node.problem:
                remedy = _KEY
            elif "certificate" in node.problem:
                remedy = _CERTIFICATE
            yield Finding("broken", "Node", node.problem, remedy)
        elif "asks for a key" in node.problem:
            yield Finding("note", "Node", node.problem, _KEY)
        elif "certificate" in node.problem:
            yield Finding("note", "Node", node.problem, _CERTIFICATE)
        else:
            yield Finding("ok", "Node", f"none is running at {node.url}; exo starts one")
        return
    subject = f"Node {node.id}"
    if node.not_ready is not None:
        yield Finding("broken", subject, f"{node.url} is not ready: {node.not_ready}")
    else:
        others = len(node.peers)
        sees = f"{others} other node{'s' * (others != 1)}" if others else "no other node"
        yield Finding("ok", subject, f"{node.url}, release {node.version}, is ready and sees {sees}")
    if node.version != exo.__version__:
        says = f"it is release {node.version}, and this command is of {exo.__version__}"
        yield Finding("note", subject, says, "Restart the node, if it was installed anew.")
    if node.requests >= _REQUESTS and node.failed >= _FAILED_SHARE * node.requests:
        says = f"{node.failed} of {node.requests} requests have failed since it started"
        yield Finding("note", subject, says, "Its log says why; exo_errors_total in /metrics, which kinds.")


def _ports(ports: tuple[Port, ...], node: RunningNode | None, *, npu: bool) -> Iterator[Finding]:
    free = []
    for port in ports:
        here = port.use == "exo's API" and node is not None and node.problem is None
        if port.owner == "":
            free.append(f"{port.number}/{port.protocol}" if port.protocol == "udp" else str(port.number))
        elif port.ours or here:
            yield Finding("ok", f"Port {port.number}", f"{port.owner or 'the node'} has it, for {port.use}")
        else:
            yield from _taken(port, npu=npu)
    if free:
        yield Finding("ok", "Ports", f"{', '.join(free)} {'are' if len(free) > 1 else 'is'} free")


def _taken(port: Port, *, npu: bool) -> Iterator[Finding]:
    owner = port.owner or "a program of another user"
    subject = f"Port {port.number}"
    if port.protocol == "udp":
        yield Finding("ok", subject, f"{owner} has it, and others may have it, too")
    elif port.use == "exo's API":
        says = f"{owner} has it, and is no node of exo that answers"
        remedy = f"exo {port.option} {port.number + 1} takes another one; or end that program."
        yield Finding("broken", subject, says, remedy)
    elif port.use == "rkllama":
        if npu:  # elsewhere it is nobody's business
            remedy = (
                f"rkllama {port.option} {port.number + 1}, and RKLLM_SERVER_PORT={port.number + 1} for exo."
            )
            yield Finding("note", subject, f"{owner} has it, which rkllama would listen on", remedy)
    else:
        says = f"{owner} has it: a node here takes a free one, and those that name it do not find it"
        yield Finding(
            "note", subject, says, f"exo {port.option} {port.number + 2}, and name it so elsewhere."
        )


def _network(network: Network, ports: tuple[Port, ...]) -> Iterator[Finding]:
    if not network.addresses:
        yield Finding("ok", "Network", "this machine has no address that others could reach")
        return
    heard = [each for each in network.multicast if each.problem is None]
    for each in network.multicast:
        if each.problem is not None:
            yield Finding(
                "note",
                "Multicast",
                f"{each.interface} ({each.address}): {each.problem}",
                "Nodes are not found over it: exo --peer HOST names them.",
            )
    if heard:
        names = ", ".join(f"{each.interface} ({each.address})" for each in heard)
        says = f"works on {names}; tried within this machine, which says nothing of switches and Wi-Fi"
        yield Finding("ok", "Multicast", says)
    elif not network.multicast:
        says = "no interface of this machine does it, so nodes do not find each other"
        yield Finding("note", "Multicast", says, "exo --peer HOST names another node.")
    if network.firewall:
        says = f"what comes in may be dropped ({network.firewall})"
        needed = ", ".join(f"{each.number}/{each.protocol}" for each in ports if each.use != "rkllama")
        yield Finding("note", "Firewall", says, f"Other nodes need {needed}." if needed else None)


def _peers(node: RunningNode) -> Iterator[Finding]:
    for peer in node.peers:
        yield from _peer(peer, node)


def _peer(peer: Peer, node: RunningNode) -> Iterator[Finding]:
    subject, fine = f"Node {peer.id}", True
    if peer.problem is not None:
        port = urlsplit(peer.url).port
        says = f"it is seen, but its API is not reached from here: {peer.problem}"
        remedy = f"Open port {port}/tcp on that machine for this one." if port else None
        yield Finding("slow", subject, says, remedy)
        fine = False
    if peer.version != node.version:
        says = f"it is release {peer.version}, and {node.id} is {node.version}"
        yield Finding("note", subject, says, "Install the same release on all nodes.")
        fine = False
    if peer.ahead is not None and abs(peer.ahead) > _APART:
        way = "ahead of" if peer.ahead > 0 else "behind"
        says = f"its clock is {abs(peer.ahead):.0f} s {way} this machine's"
        yield Finding("note", subject, says, "sudo timedatectl set-ntp true, on both.")
        fine = False
    if fine:
        yield Finding("ok", subject, f"{peer.url}{', shutting down' if peer.leaving else ''}")


def _named(named: tuple[Named, ...], evidence: Evidence) -> Iterator[Finding]:
    node = evidence.node if evidence.node is not None and evidence.node.problem is None else None
    own = {"127.0.0.1", "::1", *(evidence.network.addresses if evidence.network else ())}
    peers = node.peers if node is not None else ()
    seen = {address for peer in peers for address in (*peer.addresses, urlsplit(peer.url).hostname)}
    port = next((each.number for each in evidence.ports if each.use == "other nodes"), None)
    for each in named:
        if own & set(each.hosts) and each.address.endswith(f":{port}"):
            continue  # this machine itself, which a file may name that all machines share
        subject, router = f"Named {each.kind} {each.address}", each.kind == "router"
        if each.kind == "file":
            remedy = "docs/CLUSTER.md has an example; exo does not start with it as it is."
            yield Finding("broken", subject, each.problem or "cannot be used", remedy)
        elif each.problem is not None:
            what = "exo cluster router" if router else "exo"
            remedy = f"Is {what} running there, at that port, which is open to this machine?"
            yield Finding("slow", subject, each.problem, remedy)
        elif node is not None and not router and not seen & set(each.hosts):
            says = f"its cluster port answers, but {node.id} does not see it"
            remedy = (
                "Both need the same --cluster-name, EXO_CLUSTER_SECRET or certificates, and release; "
                f"and {node.id} has to be started with that name."
            )
            yield Finding("slow", subject, says, remedy)
        else:
            yield Finding("ok", subject, "its cluster port answers")


def _server(server: Server) -> Finding:
    subject = "NPU server" if server.npu else f"Upstream {server.url}"
    if server.problem is not None:
        remedy = "Start it there, or name another one with --upstream."
        if server.npu:
            remedy = "Start rkllama there, or set RKLLM_SERVER_HOST and RKLLM_SERVER_PORT to where it runs."
        return Finding("broken", subject, server.problem, remedy)
    dialect = "OpenAI's dialect" if server.dialect == "openai" else "the first rkllama's dialect"
    what = f"{server.url}: {server.release or 'no release told'}, {dialect}"
    if not server.models:
        says = f"{what}; it has no model"
        put = "Put .rkllm files into ~/RKLLAMA/models there." if server.npu else None
        return Finding("broken", subject, says, put)
    if server.dialect == "original":
        says = f"{what}, one request at a time; {', '.join(server.models)}"
        return Finding("note", subject, says, "This package's rkllama keeps clients apart, and queues.")
    some = ", ".join(server.models[:6]) + (" and others" if len(server.models) > 6 else "")
    return Finding("ok", subject, f"{what}; {some}")
