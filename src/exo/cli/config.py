"""`exo config`: what a node would be told here, and where each of it comes from."""

from typing import Any

import click
import msgspec

from exo.cli.keys import CONFIG, SETTINGS
from exo.cli.serve import node_settings
from exo.configuration.command import Configured, config_argument
from exo.configuration.noted import Noted

SCHEMA_FILE = "config.schema.json"

_HEAD = """\
What `exo serve` is told; docs/CONFIGURATION.md says more. This file is looked for at EXO_HOME/config.toml, \
which is ~/.cache/exo/config.toml where EXO_HOME is not set, then at /etc/exo/config.toml; EXO_CONFIG or \
--config names another one.

Take the # away before a line and before its [table] to change it. Flags and environment variables count \
more than this file. Shown is the default, or an example where there is none.

`exo config --check FILE` finds what is wrong with it, `exo config` shows what counts."""


def example_text() -> str:
    """What `exo config --example` prints."""
    from exo.configuration.example import example

    return example(SETTINGS, _HEAD)


def schema_text() -> str:
    """What the file of the package is made of."""
    from exo.configuration.schema import schema

    return (
        msgspec.json.format(msgspec.json.encode(schema(SETTINGS, "Configuration of exo")), indent=2).decode()
        + "\n"
    )


def _shipped_schema() -> str:
    import importlib.resources

    return importlib.resources.files("exo.cli").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def _printed(name: str, text: Any, help: str) -> click.Option:
    """A flag that prints what `text` returns, and that is all: whatever the configuration is."""

    def show(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            click.echo(text(), nl=False)
            context.exit()

    return click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=show, help=help)


@click.command(
    cls=Configured,
    params=[
        config_argument(),
        click.Option(["--json", "as_json"], is_flag=True, help="Print it as JSON."),
        click.Option(["--check"], is_flag=True, help="Only find out whether all of it can be used."),
        _printed("--example", example_text, "Print a file to begin with, all of it in comments."),
        _printed("--schema", _shipped_schema, "Print the JSON Schema of the file."),
        CONFIG,
        *SETTINGS,
    ],
)
@click.pass_context
def config(context: click.Context, /, as_json: bool, check: bool, **given: Any) -> None:
    """Show what `exo serve` would be told here, and by what: flag, environment, file, or its default.

    Takes the options of `exo serve`, too, and so shows what they would change; FILE is --config FILE. Keys
    are masked. Ends with status 2, and says all that is wrong, where something cannot be used.
    """
    from exo.configuration.effective import as_file, effective

    document = Noted.of(context).document
    file = None if document is None else str(document.path)
    reckoned: dict[str, Any] = {}
    wrong: click.ClickException | None = None
    try:
        settings, cluster = node_settings(context)
        reckoned = {
            "memory": settings.memory,
            "node_id": settings.node_id,
            "discovery_module": cluster.discovery,
        }
    except click.ClickException as error:
        # What contradicts is best seen in what it is made of.
        wrong = error
    if check:
        if wrong is None:
            click.echo(f"{file or 'Without a configuration file,'} can be used.")
    else:
        found = effective(context, reckoned)
        if as_json:
            click.echo(msgspec.json.encode({"file": file, "settings": found}))
        else:
            click.echo(f"# {file or 'There is no configuration file.'}\n\n{as_file(found)}", nl=False)
    if wrong is not None:
        raise wrong
