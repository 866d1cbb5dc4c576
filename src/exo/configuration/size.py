"""Bytes as people write them."""

from typing import TYPE_CHECKING, Any

import click

from exo import commandline

# Which can be told what it makes only in newer releases of click.
if TYPE_CHECKING:
    _BytesType = click.ParamType[int]
else:
    _BytesType = click.ParamType


class Size(_BytesType):
    """Bytes, as "6GB", "512MB" or a number."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return commandline.memory_size(str(value))
        except click.BadParameter as error:
            # Which says where the text came from by itself.
            raise click.BadParameter(error.message, ctx, param) from error
