"""The `rkllama` command line. `rkllama` alone is `rkllama serve`; heavy imports wait until a command runs.

The context's object is the root of the file system that `tune` and `doctor` look at: "/", unless the caller
gives a board's copy.
"""

import os
from pathlib import Path

import click

import exo
from exo.commandline import Commands
from exo.configuration.environment import check_environment
from rkllama.cli.config import config
from rkllama.cli.doctor import doctor
from rkllama.cli.keys import VARIABLES
from rkllama.cli.serve import serve
from rkllama.cli.tune import tune


class Rkllama(Commands):
    """Names that nothing reads are errors."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(context, args)
        # The doctor tells of such names among other things.
        if not context.resilient_parsing and found[1] is not doctor:
            check_environment(os.environ, "rkllama", VARIABLES)
        return found


@click.group(cls=Rkllama, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(exo.__version__, prog_name="rkllama")
@click.pass_context
def app(context: click.Context) -> None:
    """The server for .rkllm models on a Rockchip board's NPU.

    Without a command this is `rkllama serve`.
    """
    context.obj = context.obj or Path("/")


app.add_command(serve)
app.add_command(config)
app.add_command(tune)
app.add_command(doctor)
