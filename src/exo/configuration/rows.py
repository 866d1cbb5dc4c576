"""How a row of a table of settings is written: variables are named after the first flag."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from exo.configuration.setting import Flag, PerModel, Unflagged


def flag(prefix: str, key: str, *flags: str, **attrs: Any) -> Flag:
    """One with flags; help shows its default. `prefix` begins the names of the program's variables: EXO_."""
    attrs.setdefault("show_default", "default" in attrs)
    return Flag(flags, key=key, envvar=_variable(prefix, flags[0]), **attrs)


def per_model(prefix: str, key: str, *flags: str, **attrs: Any) -> PerModel:
    """One with a value for each model."""
    return PerModel(flags, key=key, envvar=_variable(prefix, flags[0]), **attrs)


def unflagged(key: str, name: str, variable: str, **attrs: Any) -> Unflagged:
    """One that the command calls `name`."""
    return Unflagged([name], key=key, envvar=variable, **attrs)


def secret(key: str, name: str, variable: str, what: str, sample: str) -> tuple[Unflagged, Unflagged]:
    """One that is set itself, and one that names a file it is in, like `sample`."""
    return (
        unflagged(
            key,
            name,
            variable,
            secret=True,
            sample="something long",
            help=f"{what} Only its owner may read the file that it stands in (chmod 600).",
        ),
        unflagged(
            f"{key}_file",
            f"{name}_file",
            f"{variable}_FILE",
            type=click.Path(path_type=Path),
            sample=sample,
            help="File that has it in one line instead, and that only its owner may read (chmod 600).",
        ),
    )


def traces(prefix: str) -> Flag:
    """Where traces of requests are sent, and that they are."""
    return flag(
        prefix,
        "traces.url",
        "--traces",
        metavar="URL",
        callback=_collector,
        sample="http://localhost:4318",
        help="Send traces of requests to this OpenTelemetry collector (OTLP over HTTP). The rest is set by "
        "the OTEL_ variables of the standard.",
    )


def _collector(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        found = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        found = False
    if not found:
        raise click.BadParameter(f"'{value}' is no URL of a collector; write http://localhost:4318")
    return value


def _variable(prefix: str, flag: str) -> str:
    return prefix + flag.lstrip("-").replace("-", "_").upper()
