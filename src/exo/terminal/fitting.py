"""Whether a panel fits where a node is started: on a terminal, with somebody in front of it."""

import os
from collections.abc import Mapping
from typing import TextIO

import msgspec

_LEAST_COLUMNS, _LEAST_ROWS = 60, 12


class Terminal(msgspec.Struct, frozen=True):
    """What of a terminal's abilities the panel uses."""

    unicode: bool
    colours: bool


def terminal(environment: Mapping[str, str], out: TextIO, err: TextIO) -> Terminal | None:
    """What the terminal can do; None where log lines suit better.

    That is where one of stdout and stderr is no terminal, as under systemd or in a pipe, where the terminal
    is a dumb one or too small, in CI, and in the background, where the shell has the terminal. NO_COLOR is as
    on no-color.org, CI as its services set it. A Linux console is given ASCII: what else its font has is not
    known.
    """
    name = environment.get("TERM", "")
    if not (out.isatty() and err.isatty()) or name in ("", "dumb", "unknown"):
        return None
    if environment.get("CI", "").lower() not in ("", "0", "false"):
        return None
    if not in_front(err.fileno()) or not large_enough(os.get_terminal_size(err.fileno())):
        return None
    utf8 = err.encoding.lower().replace("-", "") == "utf8"
    return Terminal(unicode=utf8 and name != "linux", colours=not environment.get("NO_COLOR"))


def large_enough(size: os.terminal_size) -> bool:
    return size.columns >= _LEAST_COLUMNS and size.lines >= _LEAST_ROWS


def in_front(fd: int) -> bool:
    """Whether the terminal is this process', and not the shell's or another job's."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # it does not control this process
        return False
