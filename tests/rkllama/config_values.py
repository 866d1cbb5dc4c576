"""`rkllama config` in this process, and values of its settings: see tests/cli/config_values.py."""

from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from exo.configuration.setting import Setting
from rkllama.cli import app
from rkllama.cli.keys import VARIABLES
from rkllama.vendor.library import NAME
from tests.cli import config_values as exos
from tests.cli.config_values import Said, Shown
from tests.rkllama.board import trees

RELEASES = ("1.1.4", "1.2.3", "1.3.0")


def three(setting: Setting, folder: Path) -> tuple[Said, Said, Said]:
    """Three different values."""
    match setting.key:
        case "npu.release":
            values = list(RELEASES)
        case "npu.library":
            values = [str(library(folder / name)) for name in ("one", "two", "three")]
        case _:
            return exos.three(setting, folder)
    one, two, other = (Said(value, value, value) for value in values)
    return one, two, other


def library(folder: Path) -> Path:
    """A folder that has a file where the library would be; nothing loads it here."""
    folder.mkdir()
    (folder / NAME).touch()
    return folder


def bare(home: Path, env: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """An environment that sets nothing of rkllama's but `env`."""
    names = (*VARIABLES, "LD_LIBRARY_PATH")
    return {**dict.fromkeys(names, None), "HOME": str(home), **(env or {})}


def rkllama(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Shown:
    """Run on a board that `home` has in its folder board: an RK3588's, if it is not there yet."""
    board = home / "board"
    if not board.is_dir():
        trees.write(board, trees.rk3588())
    result = CliRunner().invoke(app, arguments, obj=board, env=bare(home, env), prog_name="rkllama")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Shown(result.exit_code, result.stdout, result.stderr)
