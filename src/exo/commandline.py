"""What the command lines of `exo` and `rkllama` share: how failures are shown, kinds of values, the log."""

import errno
import logging
import math
import os
import sys

import click
from click.shell_completion import CompletionItem

from exo import devices
from exo.errors import ExoError
from exo.text.harmless import harmless


class Commands(click.Group):
    """Options without a command are those of `serve`; failures are one line, not a traceback."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        # A shell asks what may come first: commands, and not only what `serve` takes.
        if context.resilient_parsing and not args:
            return super().parse_args(context, args)
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h", "--version")):
            args = ["serve", *args]
        return super().parse_args(context, args)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and options without a command: those of `serve`, too."""
        offered = super().shell_complete(context, incomplete)
        if incomplete.startswith("-"):
            serve = self.commands["serve"]
            serving = serve.make_context("serve", [], context, resilient_parsing=True)
            ours = {item.value for item in offered}
            offered += [item for item in serve.shell_complete(serving, incomplete) if item.value not in ours]
        return offered

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ExoError as error:
            raise click.ClickException(error.message) from error
        except OSError as error:
            # Of a file, the command itself says which; a pipe that nobody reads any more is click's to end.
            if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename:
                raise
            raise click.ClickException(f"cannot write what this says: {error.strerror}") from error


class Number(click.FloatRange):
    """A number within a range: `nan` and `inf` are floats, too."""

    def convert(self, value: float, param: click.Parameter | None, context: click.Context | None) -> float:
        number = float(super().convert(value, param, context))
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, context)
        return number


class Seconds(Number):
    """A time that ends."""

    name = "seconds"


def open_standard_streams() -> None:
    """Opens nothing (/dev/null) where stdin, stdout or stderr is closed, as by `exo >&-`. Else the next file
    or connection would get its number, and whatever a library prints would go there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is the one that is taken.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (for good)


def key() -> str | None:
    """The key this machine's owner set for its servers, to serve with or to ask with."""
    return os.environ.get("EXO_API_KEY") or None


def memory_size(text: str | None) -> int:
    """Bytes of "6GB", "512MB" or a plain number; None is three quarters of this machine's memory."""
    if text is None:
        return devices.detect().memory * 3 // 4
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "": 1}
    number = text.upper().rstrip("KMGB")
    unit = text.upper()[len(number) :]
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(f"'{text}' is no size; write 6GB or 512MB", param_hint="--memory")
    return size


class _Lines(logging.Formatter):
    """What others have written into a message drives no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def log_to_stderr() -> None:
    """Plain lines for people on stderr, more of them with DEBUG=1; the access log, JSON a line, as it is."""
    debug = os.environ.get("DEBUG", "0")
    if not debug.isdigit():
        raise click.UsageError(f"DEBUG is '{debug}'; it takes 0 (quiet) to 9")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if int(debug) else logging.INFO, handlers=[handler])
    if not int(debug):
        # It tells of each request of a download.
        logging.getLogger("httpx").setLevel(logging.WARNING)
    access = logging.getLogger("exo.access")
    bare = logging.StreamHandler(sys.stderr)
    access.addHandler(bare)
    access.propagate = False
