"""The `exo` command line. `exo` alone is `exo serve`; what a command needs is imported when it runs."""

import os

import click

import exo
from exo.cli import options
from exo.cli.chat import run
from exo.cli.models import list_models, ps
from exo.cli.retired import RETIRED
from exo.cli.serve import serve
from exo.errors import ExoError


class Exo(click.Group):
    """Options without a command are those of `exo serve`; failures are one line, not a traceback."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h", "--version")):
            args = ["serve", *args]
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> object:
        options.check_environment(os.environ)
        try:
            return super().invoke(context)
        except ExoError as error:
            raise click.ClickException(error.message) from error
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
app.add_command(ps)
