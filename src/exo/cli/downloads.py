"""`exo pull`, `exo show` and `exo rm`: the models on the disk of a running node, or of this machine.

Like `exo run` they ask the node at --url, or the one on this machine; where none runs, they do it themselves.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from exo.cards import ModelCard
from exo.cli import bars, completion, https, options
from exo.cli.tables import size
from exo.errors import ModelNotFound, NotReady
from exo.nodes import Cluster

if TYPE_CHECKING:
    from exo.http.owner import Owner
    from exo.store.catalogue import Catalogue


@click.command()
@click.argument("model", shell_complete=completion.known)
@options.url
@click.option(
    "--max-parallel-downloads",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Files that are downloaded at once, where no node does it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what has come, by file, as JSON.")
def pull(model: str, url: str | None, max_parallel_downloads: int, as_json: bool) -> None:
    """Download MODEL from the Hugging Face hub: a short name, USER/REPO or USER/REPO:FILE.gguf.

    `exo show MODEL` tells where a short name leads to. A download that was stopped goes on where it ended.
    HF_TOKEN is for gated models, HF_ENDPOINT names a mirror of the hub, and with HF_HUB_OFFLINE nothing is
    downloaded.
    """
    try:
        files = asyncio.run(_pull(model, url, max_parallel_downloads))
    except KeyboardInterrupt:
        click.echo(f"\nStopped; `exo pull {model}` goes on from here.", err=True)
        raise click.exceptions.Exit(130) from None
    if as_json:
        click.echo(msgspec.json.encode({"model": model, "files": files}))
    else:
        click.echo(f"{model} is here.")


@click.command()
@click.argument("model", shell_complete=completion.deletable)
@options.url
def rm(model: str, url: str | None) -> None:
    """Delete MODEL from the disk, or what a download of it that was stopped has left."""
    asyncio.run(_delete(model, url))
    click.echo(f"Deleted {model}.")


@click.command()
@click.argument("model", shell_complete=completion.here_or_known)
@options.url
@click.option("--json", "as_json", is_flag=True, help="Print the model's card as JSON.")
def show(model: str, url: str | None, as_json: bool) -> None:
    """Show what is known of MODEL: one that is here, or one that `exo pull` knows by a short name."""
    card = asyncio.run(_card(model, url))
    if as_json:
        if card is None:
            raise ModelNotFound(f"model '{model}' is not here{_catalogue().remedy(model)}", param="model")
        click.echo(msgspec.json.encode(card))
        return
    rows = _described(card) if card else _known(model)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name.ljust(width)}  {value}")


def _described(card: ModelCard) -> list[tuple[str, str]]:
    rows = [
        ("model", card.id),
        ("format", card.format),
        ("architecture", card.architecture),
        ("parameters", f"{card.parameters:,}" if card.parameters else ""),
        ("weights", card.quantization),
        ("context", f"{card.context} tokens" if card.context else ""),
        ("on disk", size(card.bytes) if card.bytes else ""),
        ("in memory", f"about {size(card.memory)}" if card.memory else ""),
        ("layers", str(card.layers or "")),
        ("made for", ", ".join(card.capabilities)),
    ]
    return [(name, value) for name, value in rows if value]


def _known(model: str) -> list[tuple[str, str]]:
    """Of a model that is not here. Raises `ModelNotFound` for one of which nothing is known."""
    from exo.choice.routing import missing
    from exo.store import families

    known = families.find(model)
    if known is None:
        ids = [each.id for each in families.everyone()]
        raise ModelNotFound(missing(model, sorted({*_catalogue(), *ids})), param="model")
    return [
        ("model", known.id),
        ("name", known.name),
        *((format, source) for format, source in known.sources.items()),
        ("context", f"{known.context} tokens"),
        ("thinking", known.thinking or "no"),
        ("tools", known.tools or "no"),
        ("here", f"no; exo pull {known.id}"),
    ]


async def _pull(model: str, url: str | None, parallel: int) -> dict[str, int]:
    """The model's files as far as they were named on the way, with their bytes."""
    async with _shelf(url, parallel) as shelf, aclosing(shelf.pull(model)) as steps:
        with bars.shown(model, sys.stderr) as bar:
            async for step in steps:
                bar.step(step)
    return bar.files


async def _delete(model: str, url: str | None) -> None:
    from exo.http.owner import Owner

    async with _shelf(url) as shelf:
        if isinstance(shelf, Owner):
            await shelf.delete(model)
        else:
            shelf.delete(model)


async def _card(model: str, url: str | None) -> ModelCard | None:
    """Of a model that the node, or one that it sees, has."""
    from exo.http.owner import Owner

    async with _shelf(url) as shelf:
        if not isinstance(shelf, Owner):
            return shelf[model][0] if model in shelf else None
        seen = msgspec.json.decode(await shelf.get("/v1/cluster"), type=Cluster)
        cards = (card for node in (seen.me, *seen.peers) for card in node.cards)
        return next((card for card in cards if card.id == model), None)


@asynccontextmanager
async def _shelf(url: str | None, parallel: int = 4) -> AsyncIterator["Owner | Catalogue"]:
    """The node asked for, the one on this machine, or the disk itself."""
    from exo.http.owner import Owner

    asked = options.asked(url)
    owner = Owner(asked.url, key=asked.key, tls=asked.tls)
    try:
        if url or await owner.alive():
            yield owner
            return
    except NotReady as error:
        raise NotReady(f"{error.message}{https.advice(error)}") from error
    finally:
        await owner.close()
    catalogue = _catalogue(parallel)
    try:
        yield catalogue
    finally:
        await catalogue.downloads.close()


def _catalogue(parallel: int = 4) -> "Catalogue":
    from exo.store.catalogue import Catalogue

    return Catalogue(*options.model_folders(), parallel=parallel)
