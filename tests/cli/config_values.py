"""Three different values of every setting, as file, environment and flag say them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.testing import CliRunner

from exo.cli import app
from exo.cli.keys import SETTINGS
from exo.configuration.document import dotted, written
from exo.configuration.forms import form
from exo.configuration.setting import ANY_MODEL, PerModel, Setting

MODEL = "qwen3:0.6b"


class Said(NamedTuple):
    """A value: as the file has it, as text of a variable or a flag, and as `exo config` shows it."""

    in_file: Any
    text: str
    shown: Any


# Of settings whose values are not told by their form.
_TEXTS: Mapping[str, Sequence[str]] = {
    "engine.only": ("dummy", "mlx", "llamacpp"),
    "models.*.split": ("a:0-1", "b:0-2", "c:0-3"),
    "traces.url": ("http://a:4318", "https://b", "http://c/v1/traces"),
}
_LISTS: Mapping[str, Sequence[Sequence[str]]] = {
    "upstreams.urls": (["http://a"], ["http://b", "http://c:1"], ["http://d"]),
}


def three(setting: Setting, folder: Path) -> tuple[Said, Said, Said]:
    """Two are the same only where there are no more than two values; then those beside each other differ."""
    expected = form(setting)
    if expected.many:
        lists = _LISTS.get(setting.key, (["a"], ["b", "c"], ["d"]))
        one, two, other = (Said(list(each), ",".join(each), list(each)) for each in lists)
        return one, two, other
    match expected.kind:
        case "boolean":
            return Said(True, "", True), Said(None, "false", False), Said(None, "", True)
        case "integer":
            values: Sequence[Any] = [int(expected.least or 0) + each for each in (5, 6, 7)]
        case "number":
            values = [(expected.least or 0) + each for each in (0.5, 0.75, 1.5)]
        case "size":
            return Said("1GB", "2GB", 10**9), Said(None, "2GB", 2 * 10**9), Said(None, "3000000", 3 * 10**6)
        case "path":
            values = [str(_path(setting, folder / name)) for name in ("one", "two", "three")]
        case _:
            values = expected.choices[:3] or _TEXTS.get(setting.key, ("one", "two", "three"))
    one, two, other = (Said(value, str(value), value) for value in values)
    return one, two, other


def _path(setting: Setting, path: Path) -> Path:
    """That is there, as whatever the setting wants."""
    if isinstance(setting.type, click.Path) and setting.type.dir_okay:
        path.mkdir(exist_ok=True)
    else:
        path.write_text("{}")
    return path


def path_in_file(setting: Setting) -> tuple[str, ...]:
    return tuple(MODEL if part == ANY_MODEL else part for part in setting.key.split("."))


def in_file(setting: Setting, value: Any) -> str:
    """A file that says it and nothing else, in its third line."""
    *table, leaf = path_in_file(setting)
    head = f"# A comment.\n[{dotted(table)}]\n" if table else "# A comment.\n\n"
    return f"{head}{leaf} = {written(value)}\n"


def in_environment(setting: Setting, said: Said) -> dict[str, str]:
    text = f"{MODEL}={said.text}" if isinstance(setting, PerModel) else said.text
    return {setting.variable: text}


def as_flags(setting: Setting, said: Said) -> list[str]:
    assert setting.flag is not None
    if form(setting).kind == "boolean":
        return [setting.flag]
    texts = said.shown if form(setting).many else [said.text]
    prefix = f"{MODEL}=" if isinstance(setting, PerModel) else ""
    return [part for text in texts for part in (setting.flag, f"{prefix}{text}")]


class Shown(NamedTuple):
    """What came of `exo config`."""

    code: int
    out: str
    err: str

    def settings(self) -> dict[str, dict[str, Any]]:
        return {each["key"]: each for each in json.loads(self.out)["settings"]}


def exo_config(*arguments: str, env: Mapping[str, str] | None = None) -> Shown:
    """In this process, with nothing set in its environment but `env`."""
    names = {each.variable for each in SETTINGS} | {"EXO_CONFIG", "EXO_URL"}
    result = CliRunner().invoke(
        app, ["config", *arguments], env={**dict.fromkeys(names, None), **(env or {})}, prog_name="exo"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Shown(result.exit_code, result.stdout, result.stderr)
