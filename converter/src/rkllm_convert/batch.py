"""Several models from a file: `models.yaml`, or one of the recipes.

    models:
      - model: Qwen/Qwen2.5-1.5B-Instruct
        name: Qwen2.5-1.5B-Instruct
        platform: rk3588
        dtype: w8a8
        calibrate: 20

A row's keys are those of `Request`; `model` and `platform` are needed. `defaults` holds what all rows have.
`expected` is for people: what the recipes say of memory and speed. Anything else is refused.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping

from rkllm_convert.errors import BadInput
from rkllm_convert.request import Request

_OTHERS = ("model", "expected")
_KINDS: Mapping[str, type] = {"str": str, "int": int, "float": float, "None": type(None)}


@dataclass(frozen=True)
class Row:
    """A model of the file, and what to make of it."""

    model: str
    request: Request
    expected: Mapping[str, Any] = field(default_factory=dict)


def find(name: str) -> Path:
    """The file of that path, or else the recipe of that name. Raises `BadInput` where there is neither."""
    path = Path(name)
    if path.is_file():
        return path
    here = Path(__file__).parent / "recipes"
    # In a checkout they are beside the sources, in an installed package within it.
    folder = here if here.is_dir() else Path(__file__).parents[2] / "recipes"
    known = {each.stem: each for each in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise BadInput(f"{name} is neither a file nor a recipe. There is {', '.join(known) or 'no recipe'}.")
    return known[name]


def read(path: Path, platform: str | None = None) -> tuple[Row, ...]:
    """The rows, of one platform only where one is given. Raises `BadInput` naming the row and the key."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("models"), list):
        raise BadInput(f"{path} has no list of `models`")
    _check_keys(f"{path}", found, ("models", "defaults"))
    defaults = found.get("defaults") or {}
    rows = tuple(_row(path, number, defaults, row) for number, row in enumerate(found["models"], 1))
    kept = tuple(row for row in rows if platform in (None, row.request.platform))
    if not kept:
        raise BadInput(f"{path} has no model for {platform or 'any platform'}")
    names = [row.request.name or row.model.rpartition("/")[2] for row in kept]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(
            f"{path}: {twice[0]} is there more than once. Choose one with -p, or give each a `name`."
        )
    return kept


def _row(path: Path, number: int, defaults: Any, row: Any) -> Row:
    where = f"{path}, model {number}"
    if not isinstance(row, dict) or not isinstance(defaults, dict):
        raise BadInput(f"{where}: it is no mapping of keys to values")
    both = {**defaults, **row}
    kinds = {each.name: str(each.type) for each in fields(Request)}
    _check_keys(where, both, (*_OTHERS, *kinds))
    for needed in ("model", "platform"):
        if not isinstance(both.get(needed), str):
            raise BadInput(f"{where}: `{needed}` is missing")
    request: dict[str, Any] = {}
    for each in fields(Request):
        if each.name in both:
            request[each.name] = _value(where, each.name, both[each.name], kinds[each.name])
    return Row(str(both["model"]), Request(**request), both.get("expected") or {})


def _value(where: str, key: str, value: Any, kind: str) -> Any:
    """`kind` is the field's type as it is written: "str | None"."""
    kinds = tuple(_KINDS[each] for each in kind.split(" | "))
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kinds) and not isinstance(value, bool):
        return value
    wanted = " or ".join("nothing" if each is type(None) else each.__name__ for each in kinds)
    raise BadInput(f"{where}: `{key}` is {value!r}, and it has to be {wanted}")


def _check_keys(where: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        if key not in known:
            near: list[str] = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise BadInput(f"{where}: `{key}` is not known; {hint}")
