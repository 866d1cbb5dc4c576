"""What is wrong with some settings of `rkllama serve`: callbacks of click's."""

from pathlib import Path

import click

from rkllama.vendor.abi import Release
from rkllama.vendor.library import GET_IT, NAME


def library(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """The vendor's library, or the folder it is in: what is named has to be there."""
    if value is None:
        return None
    path = value.expanduser()
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise click.BadParameter(f"{value}: there is no file {path}. {GET_IT}")
    return value


def release(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A version of the vendor's library whose interface is known, like 1.2.3."""
    if value is None:
        return None
    try:
        Release.of(value)
    except ValueError as error:
        raise click.BadParameter(f"'{value}'; known are {', '.join(map(str, Release))}") from error
    return value
