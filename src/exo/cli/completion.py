"""What the shell offers where a command takes a model: names on this machine's disk. Asks no node.

The scripts that the shell sources are click's own. As each completion is a process of its own, whatever a
command needs to run stays out of it.
"""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from exo.cli import options

if TYPE_CHECKING:
    from exo.store.catalogue import Catalogue


def here(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Models on the disk."""
    return _beginning(_catalogue(), incomplete)


def deletable(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The same without the bundled one, and with what downloads that broke off have left."""
    from exo.store.catalogue import BUNDLED

    catalogue = _catalogue()
    own = {id for id, (_, path) in catalogue.on_disk.items() if BUNDLED not in path.parents}
    return _beginning(own | {*catalogue.unfinished}, incomplete)


def known(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Short names that can be downloaded."""
    return _beginning(_short_names(), incomplete)


def here_or_known(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Models on the disk, and short names that can be downloaded."""
    return _beginning({*_catalogue(), *_short_names()}, incomplete)


def _catalogue() -> "Catalogue":
    from exo.store.catalogue import Catalogue

    # What is no model would be logged, into the middle of the line that is being typed.
    logging.getLogger("exo").addHandler(logging.NullHandler())
    try:
        folders = options.model_folders()
    except click.ClickException:
        # What is wrong with the configuration is said once the line is run.
        folders = ()
    return Catalogue(*folders)


def _short_names() -> set[str]:
    from exo.store import families

    return {each.id for each in families.everyone()}


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
