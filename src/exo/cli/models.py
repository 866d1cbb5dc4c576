"""`exo list` and `exo ps`: what is on the disk, and what is in memory."""

import asyncio
from collections.abc import Sequence

import click
import msgspec

from exo import commandline
from exo.cli import options
from exo.errors import NotReady
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
    rows = [(card.id, card.format, _size(card.bytes), f"{card.context} tokens") for card in cards]
    _print_table(("MODEL", "FORMAT", "SIZE", "CONTEXT"), rows)


@click.command()
@options.url
@click.option("--json", "as_json", is_flag=True, help="Print what the node says of itself as JSON.")
def ps(url: str | None, as_json: bool) -> None:
    """Show the models in memory of a running node, and its queue."""
    body = asyncio.run(_cluster(url or options.LOCAL_URL))
    if as_json:
        click.echo(body)
        return
    node = msgspec.json.decode(body, type=Cluster).me
    rows = [(r.model, r.state, _size(r.bytes), f"{r.running} of {r.slots} slots") for r in node.loaded]
    _print_table(("MODEL", "STATE", "MEMORY", "RUNNING"), rows)
    if node.waiting:
        click.echo(f"{node.waiting} waiting")


async def _cluster(url: str) -> bytes:
    from exo.http.remote import Remote

    remote = Remote(url, key=commandline.key())
    try:
        return await remote.get("/v1/cluster")
    except NotReady as error:
        raise NotReady(f"{error.message}; `exo` starts a node, --url names another one") from error
    finally:
        await remote.close()


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} KB"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
