"""The `exo` command line. `exo` alone is `exo serve`; what a command needs is imported when it runs."""

import os

import click

import exo
from exo import commandline
from exo.cli import options
from exo.cli.bench import bench
from exo.cli.chat import run
from exo.cli.cluster import cluster
from exo.cli.config import config
from exo.cli.doctor import doctor
from exo.cli.downloads import pull, rm, show
from exo.cli.key import key
from exo.cli.models import list_models, ps
from exo.cli.nodes import nodes, spread
from exo.cli.plan import plan
from exo.cli.retired import RETIRED
from exo.cli.serve import serve
from exo.cli.service import install_service


class Exo(commandline.Commands):
    """Names that nothing reads are errors, and retired options say what replaces them."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(context, args)
        # The doctor tells of such names among other things.
        if not context.resilient_parsing and found[1] is not doctor:
            options.check_environment(os.environ)
        return found

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except click.NoSuchOption as error:
            if replacement := RETIRED.get(error.option_name):
                raise click.UsageError(f"{error.option_name} is retired: {replacement}", error.ctx) from error
            raise


@click.group(cls=Exo, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(exo.__version__, prog_name="exo")
def app() -> None:
    """A private, OpenAI-compatible LLM endpoint made of the machines you own.

    Without a command this is `exo serve`: start a node and answer at http://HOST:52415/v1.
    """


app.add_command(serve)
app.add_command(run)
app.add_command(list_models)
app.add_command(pull)
app.add_command(show)
app.add_command(rm)
app.add_command(ps)
app.add_command(plan)
app.add_command(nodes)
app.add_command(spread)
app.add_command(bench)
app.add_command(cluster)
app.add_command(key)
app.add_command(config)
app.add_command(doctor)
app.add_command(install_service)
