"""What the texts of some settings of `exo serve` become: callbacks of click's, which say what is wrong."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from exo.cards import Share
from exo.choice import partition
from exo.cli.upstreams import server_url
from exo.errors import BadRequest

T = TypeVar("T")


def engine(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The name of an engine, of this package or another one."""
    if value is None:
        return None
    from exo.engines import ENGINES

    # The NPU is not driven by this process but by a server: see `upstreams`.
    if value in (*ENGINES, "rkllm"):
        return value
    from exo.engines import others

    if value in (theirs := others.names()):
        return value
    raise click.BadParameter(
        f"'{value}': there is no such engine. There is {', '.join((*ENGINES, *theirs))} and rkllm"
    )


def servers(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses of servers, each up to what comes before /v1."""
    return tuple(server_url(each) for each in given)


def splits(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, tuple[Share, ...]]:
    """Nodes and their layers, by model's id."""
    found = {}
    for text in given:
        try:
            model, shares = partition.parse(text)
        except BadRequest as error:
            raise click.BadParameter(error.message) from error
        if model in found:
            raise click.BadParameter(f"{model} is split twice")
        found[model] = shares
    return found


def split_text(shares: tuple[Share, ...]) -> str:
    """The way back: NODE:0-13,NODE:14-27."""
    return ",".join(f"{share.node}:{share.span}" for share in shares)


def for_models(
    convert: Callable[[Any, click.Parameter | None, click.Context | None], T], example: str
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Mapping[str, T]]:
    """The callback of a repeated option `MODEL=VALUE`, which becomes values by model's id. `convert` is that
    of the values' type. Whoever has written anything else is shown the `example`."""

    def read(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> Mapping[str, T]:
        values: dict[str, T] = {}
        for text in given:
            model, _, value = text.rpartition("=")
            if not model:
                raise click.BadParameter(f"'{text}' is not MODEL=VALUE; write {example}")
            if model in values:
                raise click.BadParameter(f"{model} is given twice")
            try:
                values[model] = convert(value, parameter, context)
            except click.BadParameter as error:
                raise click.BadParameter(f"'{text}': {error.message.rstrip('.')}; write {example}") from error
        return values

    return read
