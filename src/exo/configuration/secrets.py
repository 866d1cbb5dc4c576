"""Keys that are set themselves, or by a file of their own."""

import os
from pathlib import Path

import click
from click.core import ParameterSource

from exo.configuration.noted import Faulty, Noted
from exo.configuration.setting import Setting, settings
from exo.private import exposed


def secret(context: click.Context, name: str) -> str | None:
    """What the settings `NAME` and `NAME_file` say, where one of them does: that from the environment counts
    more than that from the file. Raises `Faulty` where both are from the same place, and for a file that
    cannot be read, or that others can."""
    table = {each.name: each for each in settings(context.command)}
    itself, by_file = table[name], table[f"{name}_file"]
    value, file = context.params[name], context.params[f"{name}_file"]
    sources = [context.get_parameter_source(each.name or "") for each in (itself, by_file)]
    if value is not None and file is not None:
        if sources[0] == sources[1]:
            one, other = (_called(each, sources[0]) for each in (itself, by_file))
            raise Faulty([f"{one} and {other} are both set; leave one of them out"])
        if sources[0] == ParameterSource.ENVIRONMENT:
            file = None
    if file is None:
        return None if value is None else str(value)
    return _read(file, place(context, by_file))


def place(context: click.Context, setting: Setting) -> str:
    """Where it is set, to begin an error with."""
    source = context.get_parameter_source(setting.name or "")
    document = Noted.of(context).document
    if source == ParameterSource.DEFAULT_MAP and document is not None:
        return f"{document.place(setting.key.split('.'))}: {setting.key}"
    return _called(setting, source)


def _called(setting: Setting, source: ParameterSource | None) -> str:
    return setting.key if source == ParameterSource.DEFAULT_MAP else setting.variable


def _read(file: Path, named: str) -> str:
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read(1 << 16)
    except OSError as error:
        raise Faulty([f"{named}: {file}: {error.strerror}"]) from error
    if remedy := exposed(file, status):
        raise Faulty([f"{named}: others can read {file}: {remedy}"])
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise Faulty([f"{named}: {file} is no text"]) from error
    if not text or "\n" in text:
        raise Faulty([f"{named}: {file} has to have one line in it, which is the key"])
    return text
