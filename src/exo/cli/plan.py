"""`exo plan`: where a model's layers would go, before anything is loaded."""

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from exo.cli import completion, options
from exo.cli.running import running_node
from exo.cli.tables import print_table, size

if TYPE_CHECKING:
    from exo.wire.shards import PartShown, PlanAnswer


@click.command()
@click.argument("model", shell_complete=completion.here)
@click.option(
    "--split",
    metavar="NODE:FIRST-LAST,...",
    help="Layers by hand instead of by memory, like node1:0-13,node2:14-27.",
)
@options.url
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(model: str, split: str | None, url: str | None, as_json: bool) -> None:
    """Show which node of the cluster would take which layers of MODEL, and whether they fit.

    A model that fits one node stays whole on the one with the most memory. Ends with status 1 where it
    cannot be loaded so.
    """
    from exo.wire.shards import decode_plan_answer

    body = asyncio.run(_ask(url, model, split))
    answer = decode_plan_answer(body)
    if as_json:
        click.echo(body)
    else:
        rows = [_row(part, answer) for part in answer.parts]
        print_table(("NODE", "LAYERS", "TAKES", "MAY USE", "FITS"), rows)
        click.echo(_speed(answer))
        if not answer.exact:
            click.echo("What it takes is estimated, as the node that was asked has not all of its files.")
    if answer.problem:
        raise click.ClickException(answer.problem)


async def _ask(url: str | None, model: str, split: str | None) -> bytes:
    asked = {"model": model} | ({"split": split.removeprefix(f"{model}=")} if split is not None else {})
    async with running_node(url) as peer:
        return await peer.get(f"/v1/cluster/plan?{urlencode(asked)}")


def _row(part: "PartShown", answer: "PlanAnswer") -> tuple[str, ...]:
    layers = f"{part.first_layer}-{part.last_layer} of {answer.layers}" if answer.layers else "all"
    return (part.node, layers, size(part.bytes), size(part.budget), "yes" if part.fits else "no")


def _speed(answer: "PlanAnswer") -> str:
    figures = [
        f"{figure:.1f} tokens/s {what}"
        for figure, what in ((answer.prefill, "read"), (answer.decode, "written"))
        if figure is not None
    ]
    if not figures:
        return "Nothing is known of its speed."
    return f"Expected: {', '.join(figures)} ({answer.guessed or 'as measured there'})."
