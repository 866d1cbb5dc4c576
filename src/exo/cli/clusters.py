"""How a node finds the others: flags and environment to `ClusterSettings`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import click

from exo.cli import options
from exo.cluster.certificates import tls_files
from exo.cluster.settings import ClusterSettings, TlsFiles
from exo.private import exposed

Discovery: TypeAlias = Literal["udp", "manual", "tailscale", "none"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def folder() -> Path:
    """Where this node keeps the cluster's certificates."""
    return options.home() / "cluster"


def settings(
    host: str,
    *,
    name: str,
    discovery: Discovery | None,
    manual_file: Path | None,
    port: int,
    peers: tuple[str, ...],
    routers: tuple[str, ...] = (),
    environment: Mapping[str, str],
) -> ClusterSettings:
    """The way into the cluster for a node that listens on `host`: whom nobody can reach looks for nobody.

    Raises `UsageError` for what contradicts.
    """
    if manual_file and discovery not in (None, "manual"):
        raise click.UsageError(f"--discovery-config-path is for --discovery-module manual, not {discovery}")
    if discovery == "manual" and not manual_file:
        raise click.UsageError(
            "--discovery-module manual needs --discovery-config-path; with --peer alone it is none"
        )
    if routers and (discovery not in (None, "none") or peers or manual_file):
        raise click.UsageError("a node with --router looks for nobody else: leave out how it would")
    if host in _LOOPBACK and (discovery not in (None, "none") or peers or manual_file or routers):
        raise click.UsageError(
            f"nodes elsewhere cannot reach --host {host}; leave it out to be one of a cluster"
        )
    if discovery is None:
        discovery = "none" if routers or host in _LOOPBACK else "manual" if manual_file else "udp"
    secret = environment.get("EXO_CLUSTER_SECRET")
    return ClusterSettings(
        name=name,
        discovery=discovery,
        port=port,
        peers=peers,
        routers=routers,
        manual_file=manual_file,
        secret=secret.encode() if secret else None,
        tls=certificates(folder()),
    )


def certificates(folder: Path) -> TlsFiles | None:
    """The cluster's certificates, where this machine has joined one that has them. Raises `UsageError` where
    some are missing, or others can read the key."""
    files = tls_files(folder)
    there = {path.name: path.exists() for path in (files.ca, files.certificate, files.key)}
    if any(there.values()) and not all(there.values()):
        lacks = " and ".join(name for name, exists in there.items() if not exists)
        raise click.UsageError(f"{folder} lacks {lacks}; run exo cluster join again")
    if not all(there.values()):
        return None
    if remedy := exposed(files.key, files.key.stat()):
        raise click.UsageError(f"others can read {files.key}: {remedy}")
    return files
