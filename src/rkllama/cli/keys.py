"""The one table of what the NPU server can be told: key in the file, flags, environment variable, and what it
does.

`rkllama serve` takes it, `rkllama config` explains it, and the JSON Schema, the example and the table in
docs/CONFIGURATION.md are made of it by `scripts/config-schema`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from exo import commandline
from exo.configuration.command import config_option
from exo.configuration.rows import flag as row
from exo.configuration.rows import secret, traces, unflagged
from exo.configuration.setting import Setting
from exo.configuration.size import Size
from rkllama.cli import conversions

FILE = Path("~/RKLLAMA/rkllama.toml")
MODELS = Path("~/RKLLAMA/models")

PLATFORMS = ("rk3588", "rk3576", "rk3562", "rv1126b")


def places(environment: Mapping[str, str]) -> Sequence[Path]:
    """Where a configuration is that nobody names."""
    return (FILE.expanduser(),)


CONFIG = config_option("RKLLAMA_CONFIG", places, str(FILE))

flag = partial(row, "RKLLAMA_")

SETTINGS: tuple[Setting, ...] = (
    flag("http.host", "--host", default="0.0.0.0", help="Address to listen on."),
    flag(
        "http.port",
        "--port",
        default=8080,
        type=click.IntRange(0, 65535),
        help="Port to listen on; 0 is a free one.",
    ),
    *secret("http.api_key", "api_key", "EXO_API_KEY", "Asked of every client.", "~/RKLLAMA/api-key"),
    flag(
        "http.cors_origins",
        "--cors-origin",
        multiple=True,
        metavar="ORIGIN",
        sample=["https://chat.example.org"],
        help="Web origin whose pages may use this server, or '*'. May be repeated.",
        about='Web origins whose pages may use this server; "*" is all of them.',
    ),
    flag(
        "http.keepalive",
        "--keepalive",
        default=5.0,
        type=commandline.Seconds(min=0.1),
        help="Seconds of silence after which a stream gets a comment, so that nobody takes it for dead.",
    ),
    flag(
        "http.grace",
        "--grace",
        default=15.0,
        type=commandline.Seconds(min=0),
        help="Seconds that answers under way get at shutdown.",
    ),
    flag(
        "models.folder",
        "--models",
        type=click.Path(file_okay=False, path_type=Path),
        default=MODELS,
        help="Folder of models: NAME/FILE.rkllm, and a Modelfile beside it.",
    ),
    flag(
        "models.default",
        "--default-model",
        sample="Qwen2.5-1.5B-Instruct",
        help="Model for requests that name none.",
    ),
    flag(
        "models.preload",
        "--preload",
        multiple=True,
        metavar="MODEL",
        sample=["Qwen2.5-1.5B-Instruct"],
        help="Load this model at start. May be repeated.",
        about="Models that are loaded at start.",
    ),
    flag(
        "limits.memory",
        "--memory",
        type=Size(),
        sample="6GB",
        help="What all models together may take, like 6GB. [default: 3/4 of the machine's]",
    ),
    flag(
        "limits.waiting",
        "--max-waiting",
        default=64,
        type=click.IntRange(min=1),
        help="Requests that may wait; more are refused with 429.",
    ),
    flag(
        "limits.idle_unload",
        "--idle-unload",
        default=0.0,
        type=commandline.Seconds(min=0),
        help="Seconds after which a model nobody uses leaves memory; 0 keeps it while there is room.",
    ),
    flag(
        "npu.platform",
        "--target_platform",
        "--target-platform",
        type=click.Choice(PLATFORMS, case_sensitive=False),
        sample="rk3588",
        help="The board's chip. [default: the one this machine has]",
    ),
    unflagged(
        "npu.library",
        "library",
        "RKLLM_LIB_PATH",
        type=click.Path(path_type=Path),
        callback=conversions.library,
        sample="/usr/lib/librkllmrt.so",
        help="The vendor's library, or its folder. Without it, the one in ~/RKLLAMA/lib or the system's.",
    ),
    unflagged(
        "npu.release",
        "release",
        "RKLLM_RELEASE",
        callback=conversions.release,
        sample="1.2.3",
        help="The library's release, where it cannot be told.",
    ),
    traces("RKLLAMA_"),
    unflagged(
        "log.debug",
        "debug",
        "DEBUG",
        type=click.IntRange(min=0),
        default=0,
        help="Log more: 1 to 9; 0 is quiet.",
    ),
)
"""Grouped by the tables of the file."""

VARIABLES = frozenset({"RKLLAMA_CONFIG", *(each.variable for each in SETTINGS)})
