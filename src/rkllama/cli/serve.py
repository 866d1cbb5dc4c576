"""`rkllama serve`: what flags, environment and file say to settings, and a server that runs."""

import logging
from typing import Unpack

import click

from exo import commandline
from exo.configuration.command import Configured
from rkllama.cli.configured import Given, server_settings
from rkllama.cli.keys import CONFIG, SETTINGS

log = logging.getLogger(__name__)


@click.command(cls=Configured, params=[CONFIG, *SETTINGS])
@click.pass_context
def serve(context: click.Context, /, **given: Unpack[Given]) -> None:
    """Serve the models on this board's NPU until Ctrl-C or SIGTERM.

    The vendor's library is RKLLM_LIB_PATH, ~/RKLLAMA/lib/librkllmrt.so or the system's; RKLLM_RELEASE says
    which release it is, where it cannot be told. EXO_API_KEY, when set, is asked of every client. DEBUG=1
    logs more.

    Every option has an environment variable, --port RKLLAMA_PORT, and a key in the configuration file;
    `rkllama config` shows which of them count. A variable's values for an option that may be repeated are
    separated by commas or line ends.
    """
    commandline.log_to_stderr()
    if given["debug"]:
        logging.getLogger().setLevel(logging.DEBUG)
    import uvloop

    from rkllama import assembly
    from rkllama.board.facts import read_board

    here, said = read_board(context.obj).platform, given["target_platform"]
    if said and here and said != here:
        log.warning("the platform is set to %s, but this board is an %s", said, here)
    uvloop.run(assembly.run(server_settings(context, here, context.obj)))
