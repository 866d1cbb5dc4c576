"""`exo config`: what a node would be told here, and where each of it comes from."""

from collections.abc import Mapping
from typing import Any

import click

from exo.cli.keys import CONFIG, SETTINGS
from exo.cli.serve import node_settings
from exo.configuration.show import SCHEMA_FILE, Subject, config_command
from exo.errors import NotReady

_HEAD = """\
What `exo serve` is told; docs/CONFIGURATION.md says more. This file is looked for at EXO_HOME/config.toml, \
which is ~/.cache/exo/config.toml where EXO_HOME is not set, then at /etc/exo/config.toml; EXO_CONFIG or \
--config names another one.

Take the # away before a line and before its [table] to change it. Flags and environment variables count \
more than this file. Shown is the default, or an example where there is none.

`exo config --check FILE` finds what is wrong with it, `exo config` shows what counts."""

SUBJECT = Subject("exo", "exo.cli", "Configuration of exo", _HEAD, CONFIG, SETTINGS)

example_text, schema_text = SUBJECT.example, SUBJECT.schema


def _reckoned(context: click.Context) -> Mapping[str, Any]:
    settings, cluster = node_settings(context)
    if settings.http.tls:
        from exo.http import pem

        try:
            pem.load(settings.http.tls)
        except NotReady as error:
            raise click.UsageError(error.message) from error
    return {
        "memory": settings.memory,
        "node_id": settings.node_id,
        "discovery_module": cluster.discovery,
    }


config = config_command(SUBJECT, _reckoned)

__all__ = ["SCHEMA_FILE", "SUBJECT", "config", "example_text", "schema_text"]
