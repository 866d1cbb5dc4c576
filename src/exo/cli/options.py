"""Options that several commands share, and the settings made of them."""

import difflib
import math
import os
import platform
import uuid
from collections.abc import Mapping
from pathlib import Path

import click

from exo.settings import Settings

# Names this program reads, here or through the `envvar` of an option. An unknown one is an error.
ENVIRONMENT = frozenset({"EXO_HOME", "EXO_API_KEY", "EXO_URL"})

LOCAL_URL = "http://127.0.0.1:52415"

url = click.option(
    "--url", envvar="EXO_URL", help=f"The node to ask. [default: the one on this machine, {LOCAL_URL}]"
)


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises for an `EXO_` variable that nothing reads: a typo there would be ignored for ever."""
    for name in environment:
        if name.startswith("EXO_") and name not in ENVIRONMENT:
            near = difflib.get_close_matches(name, ENVIRONMENT, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(ENVIRONMENT))}"
            raise click.UsageError(f"the environment sets {name}, which exo does not know{hint}")
        if name in ("RKLLM_SERVER_HOST", "RKLLM_SERVER_PORT"):
            click.echo(f"Warning: {name} is set, but this release has no NPU engine to use it", err=True)


class Seconds(click.FloatRange):
    """A time that ends: `nan` and `inf` are floats, too."""

    name = "seconds"

    def convert(self, value: float, param: click.Parameter | None, context: click.Context | None) -> float:
        seconds = float(super().convert(value, param, context))
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds", param, context)
        return seconds


def key() -> str | None:
    """The key this machine's owner set for nodes, to serve with or to ask with."""
    return os.environ.get("EXO_API_KEY") or None


def local_settings() -> Settings:
    """Settings for a node of our own that nobody else reaches."""
    return Settings(node_id="local", folders=model_folders(), memory=memory_size(None), context=8192, slots=1)


def home() -> Path:
    """Where this node keeps its files: EXO_HOME, or ~/.cache/exo."""
    return Path(os.environ.get("EXO_HOME") or "~/.cache/exo").expanduser()


def model_folders(seed: Path | None = None) -> tuple[Path, ...]:
    """Where models are looked for: the bundled ones, the owner's extra folder, then this node's own."""
    from exo.store.catalogue import BUNDLED

    own = home() / "models"
    return (BUNDLED, seed, own) if seed else (BUNDLED, own)


def memory_size(text: str | None) -> int:
    """Bytes of "6GB", "512MB" or a plain number; None is three quarters of this machine's memory."""
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "": 1}
    number = text.upper().rstrip("KMGB")
    unit = text.upper()[len(number) :]
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(f"'{text}' is no size; write 6GB or 512MB", param_hint="--memory")
    return size


def node_id(port: int) -> str:
    """A name for this node that stays the same over restarts: host name, and a mark of machine and port."""
    mark = uuid.uuid5(uuid.NAMESPACE_OID, f"{uuid.getnode()}:{port}").hex[:6]
    return f"{platform.node() or 'node'}-{mark}"
