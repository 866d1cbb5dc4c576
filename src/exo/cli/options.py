"""Options that several commands share, and what they have of the configuration of this machine's node."""

import platform
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from exo import commandline
from exo.cli import https, keys
from exo.configuration import environment as variables
from exo.configuration.command import Configured
from exo.configuration.secrets import secret
from exo.settings import Settings

if TYPE_CHECKING:
    import ssl

# Names this program reads by themselves, without a row in `keys`' table or beside it.
ENVIRONMENT = (
    frozenset({"EXO_HOME", "EXO_API_KEY", "EXO_UPSTREAM_KEY", "EXO_URL", "EXO_CLUSTER_SECRET"})
    | https.VARIABLES
)

LOCAL_URL = "http://127.0.0.1:52415"

# Under which a command's context keeps what is configured.
_META = "exo.cli.configured"

url = click.option(
    "--url", envvar="EXO_URL", help=f"The node to ask. [default: the one on this machine, {LOCAL_URL}]"
)


class Asked(NamedTuple):
    """The node that a command asks, the key that it is sent, and what an https:// one is trusted by and
    shown, None being the system's CAs and nothing."""

    url: str
    key: str | None
    tls: "ssl.SSLContext | None" = None


def asked(url: str | None) -> Asked:
    """The node at `url`, or the one on this machine as it is configured.

    Another node gets EXO_API_KEY only, and not the key that is configured for this machine's. Raises
    `ClickException` where the configuration cannot be read.
    """
    key = commandline.key()
    if url:
        url = url if "://" in url else f"http://{url}"
        return Asked(url, key, https.context(url))
    context = configured()
    local = _local_url(context)
    return Asked(local, key or secret(context, "api_key"), https.context(local, context.params["tls_cert"]))


def configured() -> click.Context:
    """The context that has the settings of this machine's node: that of the command that runs, where it takes
    them, and else one that has what environment and file say."""
    running = click.get_current_context(silent=True)
    if running is None:
        return _asked_for_nothing()
    if isinstance(running.command, Configured):
        return running
    found: click.Context = running.meta.get(_META) or running.meta.setdefault(_META, _asked_for_nothing())
    return found


def _asked_for_nothing() -> click.Context:
    command = Configured("exo", params=[keys.CONFIG, *keys.SETTINGS])
    return command.make_context("exo", [])


def _local_url(context: click.Context) -> str:
    """Where this machine's node listens. One that takes a free port is not to be known from here."""
    host, port = context.params["host"], context.params["port"]
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if port == 0:
        here, port = "127.0.0.1", keys.usual("port")
    scheme = "https" if context.params["tls_cert"] else "http"
    return f"{scheme}://{f'[{here}]' if ':' in here else here}:{port}"


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises for an `EXO_` variable that nothing reads: a typo there would be ignored for ever."""
    variables.check_environment(environment, "exo", ENVIRONMENT | keys.VARIABLES)


def local_settings() -> Settings:
    """Settings for a node of our own that nobody else reaches."""
    return Settings(
        node_id="local", folders=model_folders(), memory=commandline.memory_size(None), context=8192, slots=1
    )


def home() -> Path:
    """Where this node keeps its files: EXO_HOME, what the configuration says, or ~/.cache/exo."""
    found: Path = configured().params["home"]
    return found.expanduser()


def keys_file() -> Path:
    """Where the keys are that `exo key` has made for this machine's node."""
    from exo.admission import keyfile

    return home() / keyfile.NAME


def model_folders() -> tuple[Path, ...]:
    """Where models are looked for: the bundled ones, the owner's extra folder, then this node's own."""
    from exo.store.catalogue import BUNDLED

    seed: Path | None = configured().params["models_seed_dir"]
    own = home() / "models"
    return (BUNDLED, seed, own) if seed else (BUNDLED, own)


def node_id(port: int) -> str:
    """A name for this node that stays the same over restarts: host name, and a mark of machine and port."""
    mark = uuid.uuid5(uuid.NAMESPACE_OID, f"{uuid.getnode()}:{port}").hex[:6]
    return f"{platform.node() or 'node'}-{mark}"
