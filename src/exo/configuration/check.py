"""What a file says that fits the table, and all that is wrong with the rest."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from exo.configuration.document import Document, dotted
from exo.configuration.forms import Unfit, form, plain, shown
from exo.configuration.setting import ANY_MODEL, PerModel, Setting
from exo.private import exposed

# How alike a name has to be to be what was meant.
_ALIKE = 0.6


class Entry(NamedTuple):
    """A value of the file: its path there, and its setting."""

    path: tuple[str, ...]
    setting: Setting
    value: Any


class Fault(NamedTuple):
    """What is wrong at a path. The message goes on from the path as it is written."""

    path: tuple[str, ...]
    message: str


def examine(
    context: click.Context, document: Document, table: Sequence[Setting]
) -> tuple[Mapping[str, Any], list[str]]:
    """What click takes as `default_map`, and every fault as `FILE:LINE: KEY what`, in the file's order."""
    entries: list[Entry] = []
    faults: list[Fault] = []
    for found in _walk((), document.values, table):
        (entries if isinstance(found, Entry) else faults).append(found)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for entry in entries:
        try:
            value = _fitting(context, document, entry)
        except Unfit as error:
            faults.append(Fault(entry.path, str(error)))
            continue
        name = entry.setting.name or ""
        if isinstance(entry.setting, PerModel):
            values[name] = (*values.get(name, ()), f"{entry.path[-2]}={value}")
        else:
            values[name] = value
    told = sorted((document.line(fault.path) or 0, fault) for fault in faults)
    return values, [f"{document.path}:{line}: {dotted(fault.path)} {fault.message}" for line, fault in told]


def _walk(
    path: tuple[str, ...], values: Mapping[str, Any], table: Sequence[Setting]
) -> Iterator[Entry | Fault]:
    settings = {setting.key: setting for setting in table}
    tables = {setting.table for setting in table}
    for name, value in values.items():
        here = (*path, name)
        key = ".".join(path[:1] + (ANY_MODEL,) * (len(path) - 1) + (name,)) if path else name
        models = ".".join((*path, ANY_MODEL))
        if key in settings:
            yield Entry(here, settings[key], value)
        elif key in tables and isinstance(value, dict):
            yield from _walk(here, value, table)
        elif key in tables:
            yield Fault(here, f"is a table, and here {shown(value)}: write [{name}] and its keys below")
        elif models in tables and isinstance(value, dict):
            yield from _walk(here, value, table)
        else:
            yield Fault(here, _unknown(here, isinstance(value, dict), table))


def _fitting(context: click.Context, document: Document, entry: Entry) -> Any:
    """The value as click takes it. Raises `Unfit` with all that is to be said behind the key."""
    setting = entry.setting
    expected = form(setting)
    try:
        value = plain(expected, entry.value, document.path.absolute().parent)
    except Unfit as error:
        given = shown("x" * 99) if setting.secret and isinstance(entry.value, str) else str(error)
        raise Unfit(f"is {given}; expected {expected.words}") from error
    if setting.secret:
        if not value:
            raise Unfit("is empty; leave it out")
        if remedy := exposed(document.path, document.path.stat()):
            raise Unfit(
                f"stands in a file that others can read: {remedy}, or put it into a file "
                f"of its own and name that by {setting.key}_file"
            )
    try:
        if isinstance(setting, PerModel):
            value = setting.each.convert(value, setting, context)
            setting.converted(context, (f"{entry.path[-2]}={value}",))
        else:
            setting.converted(context, value)
    except click.BadParameter as error:
        raise Unfit(f"is wrong: {error.message}") from error
    return value


def _unknown(path: tuple[str, ...], is_table: bool, table: Sequence[Setting]) -> str:
    """Says what was probably meant."""
    name = path[-1]
    if is_table:
        tables = sorted({each.table for each in table if each.table and ANY_MODEL not in each.key})
        near = difflib.get_close_matches(name, tables, n=1, cutoff=_ALIKE)
        return (
            f"is no table; {_meant(f'[{each}]' for each in near)}"
            if near
            else (f"is no table; there are {', '.join(f'[{each}]' for each in tables)}")
        )
    if elsewhere := [each for each in table if each.leaf == name]:
        return f"is in the wrong table; it is {' or '.join(map(_told, elsewhere))}"
    for each in table:
        called = {flag.lstrip("-").replace("-", "_") for flag in each.opts} | {each.variable, each.name}
        if name.replace("-", "_") in called:
            return f"is no key; {each.flag or each.variable} is {_told(each)} here"
    where = ".".join(path[:1] + (ANY_MODEL,) * (len(path) - 2)) if len(path) > 1 else ""
    beside = [each for each in table if each.table == where]
    for candidates in (beside, table):
        if near := difflib.get_close_matches(name, [each.leaf for each in candidates], n=1, cutoff=_ALIKE):
            return f"is no key; {_meant(_told(each) for each in candidates if each.leaf == near[0])}"
    return f"is no key; there are {', '.join(map(_told, beside or table))}"


def _meant(names: Iterable[str]) -> str:
    return f"did you mean {' or '.join(names)}?"


def _told(setting: Setting) -> str:
    return setting.key.replace(ANY_MODEL, '"MODEL"')
