"""What a setting's value looks like in the file, told from its click type."""

import math
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click
import msgspec

from exo.configuration.document import text
from exo.configuration.setting import PerModel, Setting
from exo.configuration.size import Size

Kind: TypeAlias = Literal["boolean", "integer", "number", "string", "path", "size"]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """`words` end the sentence "expected ...". `least` and `most` are bounds of a number, `open` that the
    least one is left out. `choices` are all there are, if not empty."""

    kind: Kind
    many: bool = False
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    open: bool = False

    @property
    def words(self) -> str:
        if self.choices:
            one = f"one of {', '.join(self.choices)}"
        else:
            named: dict[Kind, str] = {
                "boolean": "true or false",
                "integer": "an integer",
                "number": "a number",
                "string": "a string",
                "path": "a path",
                "size": 'a size like "6GB", or bytes',
            }
            one = named[self.kind] + _bounds(self)
        return f"an array of strings, like {self._example()}" if self.many else one

    def _example(self) -> str:
        return f'["{self.choices[0]}"]' if self.choices else '["one", "two"]'

    def schema(self) -> dict[str, Any]:
        """As JSON Schema (2020-12)."""
        one: dict[str, Any] = {"type": "string" if self.kind == "path" else self.kind}
        if self.kind == "size":
            one = {"anyOf": [{"type": "string", "pattern": _SIZE}, {"type": "integer", "minimum": 1}]}
        if self.choices:
            one["enum"] = list(self.choices)
        if self.least is not None:
            one["exclusiveMinimum" if self.open else "minimum"] = self.least
        if self.most is not None:
            one["maximum"] = self.most
        return {"type": "array", "items": one} if self.many else one


_SIZE = r"^ *[0-9]+(\.[0-9]+)? *([KMGkmg][Bb])?$"


def form(setting: Setting) -> Form:
    """Raises `TypeError` for a click type that has none yet."""
    kind = setting.type
    many = setting.multiple and not isinstance(setting, PerModel)
    if isinstance(setting, PerModel):
        kind = setting.each
    match kind:
        case click.types.BoolParamType():
            return Form(kind="boolean")
        case click.Choice():
            return Form(kind="string", many=many, choices=tuple(kind.choices))
        case click.IntRange():
            return Form(kind="integer", many=many, least=kind.min, most=kind.max)
        case click.FloatRange():
            return Form(kind="number", many=many, least=kind.min, most=kind.max, open=kind.min_open)
        case click.Path():
            return Form(kind="path", many=many)
        case Size():
            return Form(kind="size", many=many)
        case click.types.StringParamType():
            return Form(kind="string", many=many)
    raise TypeError(f"{setting.key} has the type {kind!r}, which has no form in a file")


class Unfit(Exception):
    """A value of the file is not of its setting's form. The message says what it is instead."""


def plain(form: Form, value: Any, folder: Path) -> Any:
    """The value as an environment variable or a flag could have given it: its type is as `form` has it,
    bounds and choices are left to click. Paths count from `folder`. Raises `Unfit`."""
    if form.many:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            others = [each for each in value if not isinstance(each, str)] if isinstance(value, list) else []
            raise Unfit(f"an array with {shown(others[0])} in it" if others else shown(value))
        return tuple(value)
    fits = {
        "boolean": isinstance(value, bool),
        "integer": _is_integer(value),
        "number": _is_integer(value) or (isinstance(value, float) and math.isfinite(value)),
        "string": isinstance(value, str),
        "path": isinstance(value, str),
        "size": _is_integer(value) or isinstance(value, str),
    }[form.kind]
    if not fits:
        raise Unfit(shown(value))
    return str(folder / Path(value).expanduser()) if form.kind == "path" else value


def shown(value: Any) -> str:
    """A value of a TOML file in words, without what may be long or secret."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the string {text(value)}" if len(value) <= 40 else "a string"
        case list():
            return "an array"
        case dict():
            return "a table"
    return "a date or a time"


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bounds(form: Form) -> str:
    if form.least is not None and form.most is not None:
        return f" from {form.least:g} to {form.most:g}" if form.most < 10**6 else f" from {form.least:g}"
    if form.least is not None:
        return f" above {form.least:g}" if form.open else f" from {form.least:g}"
    return ""
