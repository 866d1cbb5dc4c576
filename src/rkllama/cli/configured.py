"""What flags, environment and file make of the NPU server."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import click

from exo import commandline, notify
from exo.configuration.command import Configured
from exo.configuration.secrets import secret
from exo.settings import HttpSettings
from rkllama.cli.keys import CONFIG, SETTINGS
from rkllama.vendor.library import find_library

if TYPE_CHECKING:
    from rkllama.assembly import Settings

# The fast cores of each chip, which the runtime's CPU part should run on: Cortex-A76 of the RK3588, A72 of
# the RK3576. The others have cores of one kind.
_FAST_CORES = {"rk3588": 0xF0, "rk3576": 0xF0}


class Given(TypedDict):
    """What `rkllama serve` was given, from wherever: a value for each setting of `keys`."""

    config: Path | None
    host: str
    port: int
    api_key: str | None
    api_key_file: Path | None
    cors_origin: tuple[str, ...]
    keepalive: float
    grace: float
    models: Path
    default_model: str | None
    preload: tuple[str, ...]
    memory: int | None
    max_waiting: int
    idle_unload: float
    target_platform: str | None
    library: Path | None
    release: str | None
    traces: str | None
    debug: int


def given_to(context: click.Context) -> Given:
    """What a context has been given that has read the table."""
    return cast(Given, context.params)


def server_settings(context: click.Context, here: str | None, root: Path) -> "Settings":
    """What the server goes by on a board whose chip is `here`, as far as that is known.

    Raises `NotReady` where there is no library, and `Faulty` for a key that cannot be used.
    """
    from rkllama import assembly

    given = given_to(context)
    return assembly.Settings(
        http=HttpSettings(
            host=given["host"],
            port=given["port"],
            grace=given["grace"],
            keepalive=given["keepalive"],
            cors_origins=given["cors_origin"],
            key=secret(context, "api_key"),
            supervisor=notify.supervisor(os.environ, os.getpid()),
        ),
        models=given["models"].expanduser(),
        library=runtime(given),
        release=given["release"],
        cpus=_FAST_CORES.get(given["target_platform"] or here or ""),
        memory=commandline.memory_size(None) if given["memory"] is None else given["memory"],
        waiting=given["max_waiting"],
        idle_seconds=given["idle_unload"] or None,
        preload=given["preload"],
        default_model=given["default_model"],
        hub=os.environ.get("HF_ENDPOINT"),
        hub_token=os.environ.get("HF_TOKEN"),
        root=root,
        traces=given["traces"],
    )


def runtime(given: Given) -> Path:
    """The vendor's library that is named, or else found. Raises `NotReady` where there is none."""
    named = {} if given["library"] is None else {"RKLLM_LIB_PATH": str(given["library"])}
    return find_library({**os.environ, **named}, Path.home())


def asked_for_nothing() -> click.Context:
    """What environment and file say, for a command that does not take the settings. Raises `Faulty`."""
    return Configured("rkllama", params=[CONFIG, *SETTINGS]).make_context("rkllama", [])
