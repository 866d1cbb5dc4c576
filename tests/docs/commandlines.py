"""The command lines of the three programs: whether they would take a command, without running it."""

from collections.abc import Iterator, Sequence

import click
from rkllm_convert.cli import app as rkllm_convert

from exo.cli import app as exo
from rkllama.cli import app as rkllama

PROGRAMS: dict[str, click.Group] = {"exo": exo, "rkllama": rkllama, "rkllm-convert": rkllm_convert}


def why_not(program: str, words: Sequence[str], *, whole: bool = True) -> str | None:
    """What the program would say against these words; None where it takes them. What is only to be known at
    the time, such as whether a file is there, is not looked at; nor are words in capitals for numbers. A
    sentence that is about a command need not have the `whole` of it."""
    try:
        _parse(PROGRAMS[program], program, list(words), whole)
    except click.ClickException as error:
        return error.format_message()
    except click.exceptions.Exit:  # --help and --version
        return None
    return None


def flags() -> frozenset[str]:
    """Of all commands of all programs."""
    return frozenset(
        flag
        for app in PROGRAMS.values()
        for command in _commands(app)
        for each in command.params
        for flag in (*each.opts, *each.secondary_opts)
        if flag.startswith("-")
    ) | {"--help"}


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _commands(each)


def _parse(command: click.Command, name: str, words: list[str], whole: bool) -> None:
    if isinstance(command, click.Group):
        context = command.make_context(name, words) if words or name in PROGRAMS else None
        if context is None:
            return None
        _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        return _parse(found, found.name or "", rest, whole)
    context = click.Context(command, info_name=name)
    given, rest, _ = command.make_parser(context).parse_args(words)
    if rest:
        raise click.UsageError(f"there is no place for {' '.join(rest)}")
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if not isinstance(value, str | list | tuple) or not value:
            if whole and parameter.required and not isinstance(value, bool | int):
                raise click.UsageError(f"it lacks {parameter.name}")
        elif not isinstance(parameter.type, click.Path | click.File):
            _convert(context, parameter, value)
    return None


def _convert(context: click.Context, parameter: click.Parameter, value: object) -> None:
    named = value if isinstance(value, str) else ""
    if not (named.isupper() and named.isalpha()):
        parameter.type_cast_value(context, value)
