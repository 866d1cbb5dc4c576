"""Options that several commands share, and the settings made of them."""

import difflib
import os
import platform
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from exo import commandline
from exo.settings import Settings

# Names this program reads, here or through the `envvar` of an option. An unknown one is an error.
ENVIRONMENT = frozenset({"EXO_HOME", "EXO_API_KEY", "EXO_UPSTREAM_KEY", "EXO_URL", "EXO_CLUSTER_SECRET"})

LOCAL_URL = "http://127.0.0.1:52415"

T = TypeVar("T")

url = click.option(
    "--url", envvar="EXO_URL", help=f"The node to ask. [default: the one on this machine, {LOCAL_URL}]"
)


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


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises for an `EXO_` variable that nothing reads: a typo there would be ignored for ever."""
    for name in environment:
        if name.startswith("EXO_") and name not in ENVIRONMENT:
            near = difflib.get_close_matches(name, ENVIRONMENT, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(ENVIRONMENT))}"
            raise click.UsageError(f"the environment sets {name}, which exo does not know{hint}")


def local_settings() -> Settings:
    """Settings for a node of our own that nobody else reaches."""
    return Settings(
        node_id="local", folders=model_folders(), memory=commandline.memory_size(None), context=8192, slots=1
    )


def home() -> Path:
    """Where this node keeps its files: EXO_HOME, or ~/.cache/exo."""
    return Path(os.environ.get("EXO_HOME") or "~/.cache/exo").expanduser()


def model_folders(seed: Path | None = None) -> tuple[Path, ...]:
    """Where models are looked for: the bundled ones, the owner's extra folder, then this node's own."""
    from exo.store.catalogue import BUNDLED

    own = home() / "models"
    return (BUNDLED, seed, own) if seed else (BUNDLED, own)


def node_id(port: int) -> str:
    """A name for this node that stays the same over restarts: host name, and a mark of machine and port."""
    mark = uuid.uuid5(uuid.NAMESPACE_OID, f"{uuid.getnode()}:{port}").hex[:6]
    return f"{platform.node() or 'node'}-{mark}"
