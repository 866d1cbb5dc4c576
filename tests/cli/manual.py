"""docs/CLI.md, made of the commands themselves.

As a program (`python -m tests.cli.manual`) it writes the file; `scripts/cli-docs` is that.

What depends on the machine or on the terminal does not get in: options whose default is reckoned say so in
their help, as "[default: ...]", and that is what is shown.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from exo.cli import app as exo
from exo.cli.options import ENVIRONMENT
from rkllama.cli import app as rkllama

FILE = Path(__file__).parents[2] / "docs" / "CLI.md"
REMEDY = "scripts/cli-docs makes it anew"

_HEAD = """\
# The commands

Made by `scripts/cli-docs` of what `--help` says; not to be edited by hand.

`exo` alone, or with options only, is `exo serve`; `rkllama` likewise. A command ends with status 0, with 1
where it failed, with 2 for what it cannot read, and with 130 for Ctrl-C. What went wrong is said on standard
error. Where `--json` takes no value, standard output is one JSON value and nothing else. Each command has
`--help`, or `-h`.

## Completion

Commands, options and the names of models on this machine's disk are completed by the shell. Put one line into
the file it starts with, and the same with `_RKLLAMA_COMPLETE` and `rkllama` for that command:

| shell | file | line |
|---|---|---|
| bash (4.4 or newer) | `~/.bashrc` | `eval "$(_EXO_COMPLETE=bash_source exo)"` |
| zsh | `~/.zshrc`, behind `compinit` | `eval "$(_EXO_COMPLETE=zsh_source exo)"` |
| fish | `~/.config/fish/completions/exo.fish` | `_EXO_COMPLETE=fish_source exo \\| source` |

## Environment

For `exo` a variable whose name begins with `EXO_`, and for `rkllama` one with `RKLLAMA_`, that is not listed
here, with an option below or in [CONFIGURATION.md](CONFIGURATION.md) is an error: it would be a typo.
"""

_READ: Mapping[str, str] = {
    "EXO_HOME": "`exo`: where models, caches and certificates are kept; `~/.cache/exo` without it.",
    "EXO_API_KEY": "`exo` and `rkllama`: asked of every client, and sent to the node that a command asks.",
    "EXO_UPSTREAM_KEY": "`exo serve`: sent to each `--upstream`.",
    "EXO_URL": "`exo`: the node that a command asks, as `--url`.",
    "EXO_CA_FILE": "`exo`: a file of CAs that a command trusts at `https://`, beside the system's.",
    "EXO_CLIENT_CERT": "`exo`: the certificate that a command shows a node that asks for one.",
    "EXO_CLIENT_KEY": "`exo`: its key; without it, the key stands in the certificate's file.",
    "EXO_CLUSTER_SECRET": "`exo serve`: only nodes with the same one belong to the cluster.",
    "RKLLM_SERVER_HOST": "`exo serve`: the machine of the NPU server; `localhost` without it.",
    "RKLLM_SERVER_PORT": "`exo serve`: its port; 8080 without it.",
    "HF_TOKEN": "Downloads: the token for gated models.",
    "HF_ENDPOINT": "Downloads: a mirror of the Hugging Face hub.",
    "HF_HUB_OFFLINE": "Downloads: nothing is downloaded.",
    "RKLLM_LIB_PATH": "`rkllama`: the vendor's library.",
    "RKLLM_RELEASE": "`rkllama`: the library's release, where it cannot be told.",
    "DEBUG": "`exo` and `rkllama`: 1 logs more.",
}

_RECKONED = re.compile(r"\s*\[default: (.+)\]$", re.DOTALL)


def text() -> str:
    """The whole file. Raises `ValueError` for a variable that is read and not described here."""
    if lacking := sorted(ENVIRONMENT - _READ.keys()):
        raise ValueError(f"tests/cli/manual.py does not describe {', '.join(lacking)}")
    rows = [(f"`{name}`", what) for name, what in _READ.items()]
    parts = [_HEAD.rstrip(), _table(("name", "what reads it, and for what"), rows)]
    for name, program in (("exo", exo), ("rkllama", rkllama)):
        parts += [f"## {name}", *_command(program, name, None)]
    return "\n\n".join(parts) + "\n"


def _command(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """Its section, and those of its commands behind it."""
    context = click.Context(command, info_name=name, parent=parent, show_default=True)
    if parent is not None:
        yield f"### {context.command_path}"
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    yield f"```\n{usage}\n```"
    yield inspect.cleandoc(command.help or "")
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        yield _table(
            ("option", "takes", "what it does", "default"), [_row(each, context) for each in options]
        )
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None, each
            yield from _command(found, each, context)


def _row(option: click.Option, context: click.Context) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    extra = option.get_help_extra(context)
    help, default = option.help or "", extra.get("default", "")
    if found := _RECKONED.search(help):
        help, default = help[: found.start()], found[1]
    elif default:
        default = f"`{option.default:g}`" if isinstance(option.default, float) else f"`{default}`"
    if option.envvar:
        help += f" Environment: `{option.envvar}`."
    return (names, _takes(option, context, extra.get("range", "")), help, default)


def _takes(option: click.Option, context: click.Context, bounds: str) -> str:
    if option.is_flag or option.count:
        return ""
    if isinstance(option.type, click.Choice) and option.metavar is None:
        return ", ".join(f"`{choice}`" for choice in option.type.choices)
    metavar = option.make_metavar(context).removesuffix(" RANGE")
    return f"`{metavar}`" + (f", `{bounds}`" if bounds else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
