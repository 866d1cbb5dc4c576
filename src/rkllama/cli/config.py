"""`rkllama config`: what the NPU server would be told here, and where each of it comes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from exo import commandline
from exo.configuration.secrets import secret
from exo.configuration.show import Subject, config_command
from exo.errors import NotReady
from rkllama.board.facts import read_board
from rkllama.cli.configured import Given, given_to, runtime
from rkllama.cli.keys import CONFIG, FILE, SETTINGS

_HEAD = f"""\
What `rkllama serve` is told; docs/CONFIGURATION.md says more. This file is looked for at {FILE}; \
RKLLAMA_CONFIG or --config names another one.

Take the # away before a line and before its [table] to change it. Flags and environment variables count \
more than this file. Shown is the default, or an example where there is none.

`rkllama config --check FILE` finds what is wrong with it, `rkllama config` shows what counts."""

SUBJECT = Subject("rkllama", "rkllama.cli", "Configuration of rkllama", _HEAD, CONFIG, SETTINGS)


def _reckoned(context: click.Context) -> Mapping[str, Any]:
    """The command's object is the root of the file system, as in `rkllama.cli`."""
    root: Path = context.obj
    secret(context, "api_key")
    return {
        "memory": commandline.memory_size(None),
        "target_platform": read_board(root).platform,
        "library": _found(given_to(context)),
    }


def _found(given: Given) -> Path | None:
    """The library, where there is one: that a board has none is nothing that was configured wrong, and
    `rkllama doctor` tells of it."""
    try:
        return runtime(given)
    except NotReady:
        return None


config = config_command(SUBJECT, _reckoned)
