"""`exo list` and `exo ps`: what is on the disk, and what is in memory."""

import asyncio

import click
import msgspec

from exo.cli import options
from exo.cli.running import cluster_body
from exo.cli.tables import print_table, size
from exo.nodes import Cluster


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print the models as JSON.")
def list_models(as_json: bool) -> None:
    """List the models on this machine's disk."""
    from exo.store.catalogue import Catalogue

    cards = Catalogue(*options.model_folders()).cards
    if as_json:
        click.echo(msgspec.json.encode(cards))
        return
    rows = [(card.id, card.format, size(card.bytes), f"{card.context} tokens") for card in cards]
    print_table(("MODEL", "FORMAT", "SIZE", "CONTEXT"), rows)


@click.command()
@options.url
@click.option("--json", "as_json", is_flag=True, help="Print what the node says of itself as JSON.")
def ps(url: str | None, as_json: bool) -> None:
    """Show the models in memory of a running node, and its queue."""
    body = asyncio.run(cluster_body(url))
    if as_json:
        click.echo(body)
        return
    node = msgspec.json.decode(body, type=Cluster).me
    rows = [(r.model, r.state, size(r.bytes), f"{r.running} of {r.slots} slots") for r in node.loaded]
    print_table(("MODEL", "STATE", "MEMORY", "RUNNING"), rows)
    if node.waiting:
        click.echo(f"{node.waiting} waiting")
