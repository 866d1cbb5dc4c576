"""The command `config`: what a program would be told here, and where each of it comes from."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import click
import msgspec

from exo.configuration.command import Configured, config_argument
from exo.configuration.noted import Noted
from exo.configuration.setting import Setting

SCHEMA_FILE = "config.schema.json"
"""What a program's package has the JSON Schema in."""

Reckon: TypeAlias = Callable[[click.Context], Mapping[str, Any]]
"""Makes of a context what `serve` would go by, and tells, by the parameters' names, what becomes of those
that nobody has set. Raises `ClickException` where single values are right and contradict each other."""

_HELP = """\
Show what `{0} serve` would be told here, and by what: flag, environment, file, or its default.

Takes the options of `{0} serve`, too, and so shows what they would change; FILE is --config FILE. Keys
are masked. Ends with status 2, and says all that is wrong, where something cannot be used."""


class Subject(NamedTuple):
    """A program's configuration: its table, and `file`, which is its `--config`. `head` is what the example
    begins with, `title` the schema's, which `package` is shipped with."""

    program: str
    package: str
    title: str
    head: str
    file: click.Option
    settings: tuple[Setting, ...]

    def example(self) -> str:
        """What `config --example` prints."""
        from exo.configuration.example import example

        return example(self.settings, self.head)

    def schema(self) -> str:
        """What the file of the package is made of."""
        from exo.configuration.schema import schema

        made = msgspec.json.encode(schema(self.settings, self.title))
        return msgspec.json.format(made, indent=2).decode() + "\n"

    def shipped_schema(self) -> str:
        """What `config --schema` prints."""
        import importlib.resources

        return importlib.resources.files(self.package).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def config_command(subject: Subject, reckon: Reckon) -> click.Command:
    """`config`, for a program whose `serve` takes the same settings."""

    @click.pass_context
    def config(context: click.Context, /, as_json: bool, check: bool, **given: Any) -> None:
        _show(context, reckon, as_json, check)

    return Configured(
        "config",
        callback=config,
        help=_HELP.format(subject.program),
        params=[
            config_argument(),
            click.Option(["--json", "as_json"], is_flag=True, help="Print it as JSON."),
            click.Option(["--check"], is_flag=True, help="Only find out whether all of it can be used."),
            _printed("--example", subject.example, "Print a file to begin with, all of it in comments."),
            _printed("--schema", subject.shipped_schema, "Print the JSON Schema of the file."),
            subject.file,
            *subject.settings,
        ],
    )


def _printed(name: str, text: Callable[[], str], help: str) -> click.Option:
    """A flag that prints what `text` returns, and that is all: whatever the configuration is."""

    def show(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            click.echo(text(), nl=False)
            context.exit()

    return click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=show, help=help)


def _show(context: click.Context, reckon: Reckon, as_json: bool, check: bool) -> None:
    from exo.configuration.effective import as_file, effective

    document = Noted.of(context).document
    file = None if document is None else str(document.path)
    reckoned: Mapping[str, Any] = {}
    wrong: click.ClickException | None = None
    try:
        reckoned = reckon(context)
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
