"""The file that an owner begins with, and the reference of all keys: both made of the table."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from exo.configuration.document import text, written
from exo.configuration.forms import form
from exo.configuration.setting import ANY_MODEL, Setting

_WIDTH = 96
_MODEL = "deepseek-r1-distill-qwen-7b"


def example(table: Sequence[Setting], head: str) -> str:
    """Everything that can be said, as comments: `# ` before what is for people, `#` alone before what counts
    once that is taken away. A value is the default, or only an example where there is none."""
    blocks = ["\n".join(_comment(head))]
    for name, settings in _tables(table):
        blocks += [f"#[{name}]"] if name else []
        blocks += ["\n".join([*_comment(_said(each)), f"#{each.leaf} = {_value(each)}"]) for each in settings]
    return "\n\n".join(blocks) + "\n"


def reference(table: Sequence[Setting]) -> str:
    """A table in Markdown for each one of the file."""
    parts = []
    for name, settings in _tables(table):
        rows = [_row(each) for each in settings]
        head = ("key", "takes", "what it does", "default", "flag", "variable")
        lines = [head, ("---",) * len(head), *rows]
        shown = "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)
        parts.append((f"### `[{name}]`\n\n" if name else "### Above all tables\n\n") + shown)
    return "\n\n".join(parts) + "\n"


def _row(setting: Setting) -> tuple[str, ...]:
    usual = "" if setting.usual is None else f"`{written(setting.usual)}`"
    cells = (
        f"`{setting.leaf}`",
        form(setting).words,
        setting.about,
        usual,
        f"`{setting.flag}`" if setting.flag else "",
        f"`{setting.variable}`",
    )
    return tuple(cell.replace("|", "\\|") for cell in cells)


def _tables(table: Sequence[Setting]) -> Iterator[tuple[str, list[Setting]]]:
    for name, settings in groupby(table, lambda setting: setting.table):
        yield name.replace(ANY_MODEL, text(_MODEL)), list(settings)


def _said(setting: Setting) -> str:
    choices = form(setting).choices
    listed = f" One of {', '.join(choices)}." if choices else ""
    return setting.about + listed + (" For example:" if _has_no_default(setting) else "")


def _value(setting: Setting) -> str:
    return written(setting.sample if _has_no_default(setting) else setting.usual)


def _has_no_default(setting: Setting) -> bool:
    return setting.usual in (None, [])


def _comment(words: str) -> list[str]:
    return [
        line
        for paragraph in words.split("\n")
        for line in textwrap.wrap(paragraph, _WIDTH, initial_indent="# ", subsequent_indent="# ") or ["#"]
    ]
