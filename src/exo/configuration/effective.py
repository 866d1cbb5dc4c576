"""What counts, and where each of it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click
import msgspec
from click.core import ParameterSource

from exo.configuration.document import Document, dotted, written
from exo.configuration.noted import Noted
from exo.configuration.setting import ANY_MODEL, PerModel, Setting, settings

Origin: TypeAlias = Literal["flag", "environment", "file", "default"]

_ORIGINS: Mapping[ParameterSource, Origin] = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}

_MASK = "********"


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """One value as it counts, None where it is not set. `where` is the flag, the variable, or FILE:LINE, and
    empty for a default. A secret one is masked."""

    key: str
    value: Any
    origin: Origin
    where: str = ""


def effective(context: click.Context, reckoned: Mapping[str, Any]) -> list[Effective]:
    """Of all settings of a context, in the table's order. `reckoned` has, by the parameters' names, what
    becomes of those that nobody has set."""
    return [found for setting in settings(context.command) for found in _of(context, setting, reckoned)]


def _of(context: click.Context, setting: Setting, reckoned: Mapping[str, Any]) -> Iterator[Effective]:
    noted = Noted.of(context)
    name = setting.name or ""
    value = context.params[name]
    if isinstance(setting, PerModel):
        for model in sorted(value):
            path = tuple(model if part == ANY_MODEL else part for part in setting.key.split("."))
            origin = _ORIGINS[noted.models[name, model]]
            yield Effective(
                key=dotted(path),
                value=setting.written(value[model]),
                origin=origin,
                where=_where(setting, origin, path, noted.document),
            )
        return
    source = context.get_parameter_source(name)
    assert source is not None, name
    origin = _ORIGINS[source]
    if value is None and origin == "default":
        value = reckoned.get(name)
    if setting.secret and value is not None:
        value = _MASK
    where = _where(setting, origin, setting.key.split("."), noted.document)
    yield Effective(key=setting.key, value=_plain(value), origin=origin, where=where)


def _where(setting: Setting, origin: Origin, path: Sequence[str], document: Document | None) -> str:
    match origin:
        case "flag":
            return setting.flag or ""
        case "environment":
            return setting.variable
        case "file":
            assert document is not None
            return document.place(path)
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def as_file(found: Sequence[Effective]) -> str:
    """As a TOML file, which says behind each value where it is from. What is not set is left to comments, and
    so are secrets."""
    tables: dict[str, list[tuple[str, str]]] = {}
    for each in found:
        table, leaf = _parted(each.key)
        if each.value is None:
            line, note = f"# {leaf} =", "not set"
        else:
            line, note = f"{leaf} = {written(each.value)}", each.where or each.origin
            if each.origin in ("flag", "environment"):
                note = f"{each.origin} {each.where}"
            if each.value == _MASK:
                line = f"# {line}"
        tables.setdefault(table, []).append((line, note))
    width = max(min(len(line), 40) for lines in tables.values() for line, _ in lines)
    blocks = [
        "\n".join(([f"[{table}]"] if table else []) + [f"{line:{width}}  # {note}" for line, note in lines])
        for table, lines in tables.items()
    ]
    return "\n\n".join(blocks) + "\n"


def _parted(key: str) -> tuple[str, str]:
    """Table and name in it. The name is a bare one, whatever the model is called."""
    table, _, leaf = key.rpartition(".")
    return table, leaf
