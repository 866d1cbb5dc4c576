"""`rkllama serve`: flags and environment to settings, and a server that runs."""

import logging
import os
from pathlib import Path

import click

from exo import commandline
from exo.settings import HttpSettings

log = logging.getLogger(__name__)

# The fast cores of each chip, which the runtime's CPU part should run on: Cortex-A76 of the RK3588, A72 of
# the RK3576. The others have cores of one kind.
_FAST_CORES = {"rk3588": 0xF0, "rk3576": 0xF0, "rk3562": None, "rv1126b": None}


@click.command()
@click.option(
    "--target_platform",
    "--target-platform",
    type=click.Choice(list(_FAST_CORES), case_sensitive=False),
    help="The board's chip. [default: the one this machine has]",
)
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 is a free one.",
)
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/RKLLAMA/models"),
    show_default=True,
    help="Folder of models: NAME/FILE.rkllm, and a Modelfile beside it.",
)
@click.option("--memory", help="What all models together may take, like 6GB. [default: 3/4 of the machine's]")
@click.option(
    "--max-waiting",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Requests that may wait; more are refused with 429.",
)
@click.option(
    "--idle-unload",
    default=0.0,
    show_default=True,
    type=commandline.Seconds(min=0),
    help="Seconds after which a model nobody uses leaves memory; 0 keeps it while there is room.",
)
@click.option("--preload", multiple=True, metavar="MODEL", help="Load this model at start. May be repeated.")
@click.option("--default-model", help="Model for requests that name none.")
@click.option(
    "--grace",
    default=15.0,
    show_default=True,
    type=commandline.Seconds(min=0),
    help="Seconds that answers under way get at shutdown.",
)
@click.option(
    "--keepalive",
    default=5.0,
    show_default=True,
    type=commandline.Seconds(min=0.1),
    help="Seconds of silence after which a stream gets a comment, so that nobody takes it for dead.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Web origin whose pages may use this server, or '*'. May be repeated.",
)
@click.pass_obj
def serve(
    root: Path,
    target_platform: str | None,
    host: str,
    port: int,
    models: Path,
    memory: str | None,
    max_waiting: int,
    idle_unload: float,
    preload: tuple[str, ...],
    default_model: str | None,
    grace: float,
    keepalive: float,
    cors_origin: tuple[str, ...],
) -> None:
    """Serve the models on this board's NPU until Ctrl-C or SIGTERM.

    The vendor's library is RKLLM_LIB_PATH, ~/RKLLAMA/lib/librkllmrt.so or the system's; RKLLM_RELEASE says
    which release it is, where it cannot be told. EXO_API_KEY, when set, is asked of every client. DEBUG=1
    logs more.
    """
    commandline.log_to_stderr()
    import uvloop

    from rkllama import assembly
    from rkllama.board.facts import read_board
    from rkllama.vendor import library

    here = read_board(root).platform
    if target_platform and here and target_platform.lower() != here:
        log.warning("--target_platform is %s, but this board is an %s", target_platform.lower(), here)
    library.chosen_release(os.environ)  # which raises for one that is not known
    platform = (target_platform or here or "").lower()
    settings = assembly.Settings(
        http=HttpSettings(
            host=host,
            port=port,
            grace=grace,
            keepalive=keepalive,
            cors_origins=cors_origin,
            key=commandline.key(),
        ),
        models=models.expanduser(),
        library=library.find_library(os.environ, Path.home()),
        release=os.environ.get("RKLLM_RELEASE") or None,
        cpus=_FAST_CORES.get(platform),
        memory=commandline.memory_size(memory),
        waiting=max_waiting,
        idle_seconds=idle_unload or None,
        preload=preload,
        default_model=default_model,
        hub=os.environ.get("HF_ENDPOINT"),
        hub_token=os.environ.get("HF_TOKEN"),
        root=root,
    )
    uvloop.run(assembly.run(settings))
