"""A setting: something an owner can say by flag, in the environment or in the file.

Settings are click's parameters, so that values from anywhere go through the same conversion. What is wrong
with an environment variable is noted and told together with what is wrong with the file; what is wrong with
a flag is click's own affair.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from exo.configuration.noted import Noted

ANY_MODEL = "*"


class Setting(click.Parameter):
    """What flags and settings without one have in common.

    `key` is the dotted path in the file. `usual` is the default as the file would say it, None where there
    is none or it is reckoned at start. `sample` is what the example shows then. `about` describes the key, if
    not just as the flag's help does. A `secret` is shown to nobody. Values of one that may be repeated are
    separated by `separators` in its environment variable.
    """

    def __init__(
        self,
        *args: Any,
        key: str,
        envvar: str,
        about: str = "",
        sample: Any = None,
        secret: bool = False,
        separators: str = ",\n",
        **attrs: Any,
    ) -> None:
        attrs["envvar"] = envvar
        super().__init__(*args, **attrs)
        self.key = key
        self.variable = envvar
        usual = attrs.get("default", [] if self.multiple else None)
        self.usual: Any = str(usual) if isinstance(usual, Path) else usual
        self.sample = sample
        self.secret = secret
        self.separators = separators
        self.about = about or _without_flag_talk(self.help or "")

    @property
    def flag(self) -> str | None:
        """The flag it is called by; None where there is none."""
        return self.opts[0] if isinstance(self, click.Option) else None

    @property
    def table(self) -> str:
        """The table of the file that it stands in; empty for the file itself."""
        return self.key.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Its name in its table."""
        return self.key.rpartition(".")[2]

    def converted(self, ctx: click.Context, value: Any) -> Any:
        """What the command gets for a value. Raises `BadParameter`."""
        typed = self.type_cast_value(ctx, value)
        return self.callback(ctx, self, typed) if self.callback else typed

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """One value, or those of a setting that may be repeated, without the blanks around them."""
        if not self.multiple:
            return super().value_from_envvar(ctx)
        text = self.resolve_envvar_value(ctx)
        if text is None:
            return None
        parts = (part.strip() for part in re.split(f"[{self.separators}]", text))
        return tuple(part for part in parts if part)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """As click does, but that what is wrong with the environment is noted and not raised."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            if ctx.get_parameter_source(self.name or "") != ParameterSource.ENVIRONMENT:
                raise
            Noted.of(ctx).problems.append(f"{self.variable}: {error.message}")
            return None, args


class Flag(Setting, click.Option):
    """A setting with flags."""


class Unflagged(Setting):
    """A setting without a flag: others could read it in the list of processes, or nobody would type it."""

    param_type_name = "setting"

    def _parse_decls(self, decls: Sequence[str], expose_value: bool) -> tuple[str, list[str], list[str]]:
        return decls[0], [], []

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """There is nothing to be typed."""


class PerModel(Flag):
    """A repeated flag `MODEL=VALUE`, whose key is one of the model's own table: `[models."NAME"]`.

    Its callback makes a mapping by model's id of the texts. Each model's value is a setting by itself: a flag
    for one model leaves those that the environment or the file have for others. `each` is the type of one
    value, and `written` makes of it what stands in the file.
    """

    def __init__(
        self,
        *args: Any,
        each: "click.ParamType[Any]",
        written: Callable[[Any], Any] = lambda value: value,
        **attrs: Any,
    ) -> None:
        super().__init__(*args, multiple=True, **attrs)
        self.usual = None
        self.each = each
        self.written = written

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        name = self.name or ""
        source = ctx.get_parameter_source(name)
        noted = Noted.of(ctx)
        merged: dict[str, Any] = {}
        for each, texts in self._below(ctx, source):
            merged |= self._of(ctx, each, texts, noted)
        own = super().process_value(ctx, value)
        if source is not None:
            noted.models.update({(name, model): source for model in own})
        return merged | own

    def _below(
        self, ctx: click.Context, source: ParameterSource | None
    ) -> list[tuple[ParameterSource, Sequence[str]]]:
        """What counts less than `source` and is there, the least first."""
        found: list[tuple[ParameterSource, Sequence[str]]] = []
        if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            found.append((ParameterSource.DEFAULT_MAP, (ctx.default_map or {}).get(self.name or "", ())))
        if source == ParameterSource.COMMANDLINE:
            found.append((ParameterSource.ENVIRONMENT, self.value_from_envvar(ctx) or ()))
        return found

    def _of(
        self, ctx: click.Context, source: ParameterSource, texts: Sequence[str], noted: Noted
    ) -> Mapping[str, Any]:
        try:
            values: Mapping[str, Any] = self.converted(ctx, tuple(texts))
        except click.BadParameter as error:
            noted.problems.append(f"{self.variable}: {error.message}")
            return {}
        noted.models.update({(self.name or "", model): source for model in values})
        return values


def settings(command: click.Command) -> tuple[Setting, ...]:
    """The table of a command, in its order."""
    return tuple(each for each in command.params if isinstance(each, Setting))


def _without_flag_talk(help: str) -> str:
    """A flag's help as it is true of a key."""
    text = help.replace("May be repeated.", "")
    return re.sub(r"\s*\[default: [^]]*\]", "", " ".join(text.split())).strip()
