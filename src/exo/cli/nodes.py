"""`exo nodes` and `exo spread`: the cluster, and one model on several of its nodes."""

import asyncio
from typing import TYPE_CHECKING

import click
import msgspec

from exo.cli import completion, options
from exo.cli.running import cluster_body, running_node
from exo.cli.tables import print_table, size
from exo.nodes import Cluster, Node

if TYPE_CHECKING:
    from exo.wire.cluster import SpreadAnswer


@click.command()
@options.url
@click.option("--json", "as_json", is_flag=True, help="Print what the nodes say of themselves as JSON.")
def nodes(url: str | None, as_json: bool) -> None:
    """Show the nodes of the cluster, as a running node sees them; that one is marked with *."""
    body = asyncio.run(cluster_body(url))
    if as_json:
        click.echo(body)
        return
    head, *rows = table(msgspec.json.decode(body, type=Cluster))
    print_table(head, rows)


@click.command()
@click.argument("model", shell_complete=completion.here)
@click.argument("nodes", type=click.IntRange(1, 1000), metavar="K")
@options.url
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def spread(model: str, nodes: int, url: str | None, as_json: bool) -> None:
    """Have MODEL in memory on K nodes, before it is asked for.

    Nodes that have it in memory count; the others are those that a request for it would go to first. Ends
    with status 1 where fewer than K nodes can have it.
    """
    answer = asyncio.run(_spread(url, model, nodes))
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        rows = [
            (each.node, each.state, f"{each.seconds:.1f} s", each.reason or "-") for each in answer.placements
        ]
        print_table(("NODE", "STATE", "TOOK", "WHY"), rows)
    if answer.problem:
        raise click.ClickException(answer.problem)


def table(cluster: Cluster) -> list[tuple[str, ...]]:
    """Head and rows. Temperatures and the NPU have a column where a node knows them."""
    nodes = (cluster.me, *cluster.peers)
    columns = [
        ("", ["*", *("" for _ in cluster.peers)]),
        ("NODE", [node.id + (" (shutting down)" if node.leaving else "") for node in nodes]),
        ("WHERE", [_where(node, cluster.me) for node in nodes]),
        ("DEVICE", [node.device.chip or f"{node.device.cores} CPU cores" for node in nodes]),
        ("FREE MEMORY", [f"{size(node.device.free)} of {size(node.device.memory)}" for node in nodes]),
        ("LOADED", [_loaded(node) for node in nodes]),
        ("RUNNING", [str(sum(r.running for r in node.loaded)) for node in nodes]),
        ("WAITING", [str(_waiting(node)) for node in nodes]),
    ]
    if any(node.device.temperature is not None for node in nodes):
        columns.append(("TEMPERATURE", [_shown(node.device.temperature, "{:.0f} °C") for node in nodes]))
    if any(node.device.npu_load is not None for node in nodes):
        columns.append(("NPU LOAD", [_shown(node.device.npu_load, "{:.0%}") for node in nodes]))
    return list(zip(*((head, *cells) for head, cells in columns), strict=True))


async def _spread(url: str | None, model: str, nodes: int) -> "SpreadAnswer":
    async with running_node(url) as peer:
        return await peer.spread(model, nodes)


def _where(node: Node, me: Node) -> str:
    """Host and port at which the marked node reaches it."""
    from exo.choice.nearest import nearest

    return nearest(node.url, node.addresses, me.addresses).partition("://")[2]


def _loaded(node: Node) -> str:
    """The models in memory; other servers' are on no memory of this cluster's."""
    here = [r for r in node.loaded if r.bytes > 0]
    return ", ".join(r.model if r.state == "ready" else f"{r.model} ({r.state})" for r in here) or "-"


def _waiting(node: Node) -> int:
    """In the node's queue, and for models of other servers."""
    return node.waiting + sum(r.waiting for r in node.loaded if r.bytes == 0)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
