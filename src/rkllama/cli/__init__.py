"""The `rkllama` command line. `rkllama` alone is `rkllama serve`; heavy imports wait until a command runs.

The context's object is the root of the file system that `tune` and `doctor` look at: "/", unless the caller
gives a board's copy.
"""

from pathlib import Path

import click

import exo
from exo.commandline import Commands
from rkllama.cli.doctor import doctor
from rkllama.cli.serve import serve
from rkllama.cli.tune import tune


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(exo.__version__, prog_name="rkllama")
@click.pass_context
def app(context: click.Context) -> None:
    """The server for .rkllm models on a Rockchip board's NPU.

    Without a command this is `rkllama serve`.
    """
    context.obj = context.obj or Path("/")


app.add_command(serve)
app.add_command(tune)
app.add_command(doctor)
