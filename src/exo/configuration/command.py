"""A command whose settings come from flags, the environment and a file."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click
from click.core import ParameterSource

from exo.configuration.noted import Faulty, Noted
from exo.configuration.setting import settings

Places: TypeAlias = Callable[[Mapping[str, str]], Sequence[Path]]
"""Where a file may be that nobody has named, given the environment; the first one that is there counts."""


class Configured(click.Command):
    """Tells all that is wrong with the file and the environment at once. Raises `Faulty`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            Noted.of(ctx).raise_problems()
        return rest


def config_option(variable: str, places: Places, told: str) -> click.Option:
    """`--config`, which has the file read before any setting is looked for. `told` says in words what
    `places` are."""

    def load(context: click.Context, parameter: click.Parameter, named: Path | None) -> Path | None:
        if Noted.of(context).document is None:
            _load(context, named or _found(places(os.environ)))
        return named

    return _File(
        ["--config"],
        envvar=variable,
        type=_FILE,
        is_eager=True,
        callback=load,
        metavar="FILE",
        help=f"What the other options are where neither they nor their environment variables are given. "
        f"[default: {told}, where there is one]",
    )


def config_argument() -> click.Argument:
    """FILE, which is the same as `--config FILE` and counts more."""

    def load(context: click.Context, parameter: click.Parameter, named: Path | None) -> Path | None:
        _load(context, named)
        return named

    return click.Argument(
        ["file"], required=False, type=_FILE, is_eager=True, callback=load, metavar="[FILE]"
    )


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _found(places: Sequence[Path]) -> Path | None:
    """The first that is there. Raises `Faulty` where that cannot be told."""
    for place in places:
        try:
            if place.is_file():
                return place
        except PermissionError as error:
            raise Faulty([f"{place}: {error.strerror}"]) from error
    return None


def _load(context: click.Context, path: Path | None) -> None:
    if path is None:
        return
    # Where there is no file, none of this is loaded.
    from exo.configuration.check import examine
    from exo.configuration.document import Document

    noted = Noted.of(context)
    noted.document = Document(path)
    values, faults = examine(context, noted.document, settings(context.command))
    context.default_map = dict(values)
    noted.problems += faults


class _File(click.Option):
    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """As click does, but that a file which is not there is said to be the environment's, if it is."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            if ctx.get_parameter_source(self.name or "") == ParameterSource.ENVIRONMENT:
                error.param_hint = str(self.envvar)
            raise
