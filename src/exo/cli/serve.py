"""`exo serve`: what flags, environment and file say to settings, and a node that runs."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import click

from exo import commandline, notify
from exo.cards import Dtype, Share
from exo.cli import clusters, options
from exo.cli.keys import CONFIG, SETTINGS
from exo.cli.upstreams import upstreams
from exo.cluster.settings import ClusterSettings
from exo.configuration.command import Configured
from exo.configuration.secrets import secret
from exo.settings import AutoSettings, Defaults, HttpSettings, LayersSettings, Settings, TlsSettings
from exo.terminal import fitting

if TYPE_CHECKING:
    from exo.assembly import Display


class Given(TypedDict):
    """What `exo serve` was given, from wherever: a value for each setting of `keys`."""

    config: Path | None
    home: Path
    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    api_key: str | None
    api_key_file: Path | None
    cors_origin: tuple[str, ...]
    keepalive: float
    grace: float
    default_model: str | None
    preload: tuple[str, ...]
    models_seed_dir: Path | None
    default_temp: float | None
    system_prompt: str | None
    max_generate_tokens: int | None
    timeout: float
    max_generate_tokens_for: Mapping[str, int]
    timeout_for: Mapping[str, float]
    split: Mapping[str, tuple[Share, ...]]
    auto_quick: str | None
    auto_reasoning: str | None
    inference_engine: str | None
    dtype: Dtype
    threads: int | None
    memory: int | None
    slots: int
    context: int
    max_waiting: int
    requests_per_minute: int | None
    idle_unload: float
    max_parallel_downloads: int
    cluster_name: str
    node_id: str | None
    discovery_module: clusters.Discovery | None
    discovery_config_path: Path | None
    peer: tuple[str, ...]
    router: tuple[str, ...]
    cluster_port: int
    wait_for_peers: int
    cluster_secret: str | None
    cluster_secret_file: Path | None
    upstream: tuple[str, ...]
    upstream_key: str | None
    upstream_key_file: Path | None
    npu_host: str | None
    npu_port: int | None
    traces: str | None
    disable_tui: bool
    debug: int


@click.command(cls=Configured, params=[CONFIG, *SETTINGS])
@click.pass_context
def serve(context: click.Context, /, **given: Unpack[Given]) -> None:
    """Start a node and answer until Ctrl-C or SIGTERM.

    Models are in EXO_HOME/models (default ~/.cache/exo/models): what `exo pull` has put there, .gguf files,
    and folders with config.json and safetensors. The bundled exo-demo is always there.
    EXO_API_KEY, when set, or one of the keys that `exo key` has made, is asked of every client. DEBUG=1 logs
    more.

    Every option has an environment variable, --port EXO_PORT, and a key in the configuration file; `exo
    config` shows which of them count. A variable's values for an option that may be repeated are separated
    by commas or line ends, for --split by line ends only.

    The models of the NPU server are offered where it is named, by RKLLM_SERVER_HOST (default localhost),
    RKLLM_SERVER_PORT (default 8080) or the engine rkllm. EXO_UPSTREAM_KEY is sent to each --upstream.

    Nodes on the same network find each other and answer for each other. With EXO_CLUSTER_SECRET only those
    that have the same one do; with EXO_API_KEY all need the same one.
    """
    commandline.log_to_stderr()
    if given["debug"]:
        logging.getLogger().setLevel(logging.DEBUG)
    settings, cluster = node_settings(context)
    import uvloop

    from exo import assembly

    uvloop.run(assembly.run(settings, cluster, None if given["disable_tui"] else _panel()))


def _panel() -> "Display | None":
    """What shows the node on the terminal it is started on; None where it is started on none."""
    terminal = fitting.terminal(os.environ, sys.stdout, sys.stderr)
    if terminal is None:
        return None
    from exo.terminal.panel import Panel

    return Panel(terminal)


def node_settings(context: click.Context) -> tuple[Settings, ClusterSettings]:
    """Of a context of `serve`, or of a command that takes the same. Raises `ClickException` for what is
    given and contradicts, or names what cannot be read."""
    given = cast(Given, context.params)
    host, port = given["host"], given["port"]
    own_id = given["node_id"] or options.node_id(port)
    for model, shares in given["split"].items():
        if shares[0].node != own_id:
            raise click.UsageError(
                f"--split {model}: the first layers are {shares[0].node}'s, and this node is {own_id}. "
                f"Give it to that node, whose split is this one's, too"
            )
    secrets = _secrets(context)
    engine, memory = given["inference_engine"], given["memory"]
    settings = Settings(
        http=HttpSettings(
            host=host,
            port=port,
            grace=given["grace"],
            keepalive=given["keepalive"],
            cors_origins=given["cors_origin"],
            key=secrets.get("EXO_API_KEY"),
            keys=options.keys_file(),
            requests_per_minute=given["requests_per_minute"],
            supervisor=notify.supervisor(os.environ, os.getpid()),
            tls=_tls(given),
        ),
        auto=AutoSettings(quick=given["auto_quick"], reasoning=given["auto_reasoning"]),
        defaults=Defaults(
            model=given["default_model"],
            temperature=given["default_temp"],
            max_tokens=given["max_generate_tokens"],
            max_tokens_for=given["max_generate_tokens_for"],
            system_prompt=given["system_prompt"],
        ),
        node_id=own_id,
        folders=options.model_folders(),
        upstreams=upstreams({**_npu_server(given), **secrets}, given["upstream"], engine, port),
        engine=engine,
        memory=commandline.memory_size(None) if memory is None else memory,
        waiting=given["max_waiting"],
        slots=given["slots"],
        context=given["context"],
        threads=given["threads"],
        layers=LayersSettings(dtype=given["dtype"], cache=options.home() / "cache", splits=given["split"]),
        idle_seconds=given["idle_unload"] or None,
        silence=given["timeout"],
        silence_for=given["timeout_for"],
        wait_for_peers=given["wait_for_peers"],
        parallel_downloads=given["max_parallel_downloads"],
        preload=given["preload"],
        traces=given["traces"],
    )
    cluster = clusters.settings(
        host,
        name=given["cluster_name"],
        discovery=given["discovery_module"],
        manual_file=given["discovery_config_path"],
        port=given["cluster_port"],
        peers=given["peer"],
        routers=given["router"],
        environment=secrets,
    )
    alone = cluster.discovery == "none" and not cluster.peers and not cluster.routers
    if settings.http.tls and not alone and not cluster.tls:
        raise click.UsageError(
            "--tls-cert: other nodes speak plain HTTP to the port of the API where they have no certificates "
            "of their own, and could not reach this node; exo cluster init makes them (docs/CLUSTER.md), "
            "--discovery-module none is for a node that looks for no other"
        )
    return settings, cluster


def _tls(given: Given) -> TlsSettings | None:
    certificate, key, client_ca = given["tls_cert"], given["tls_key"], given["tls_client_ca"]
    if certificate and key:
        return TlsSettings(certificate=certificate, key=key, client_ca=client_ca)
    if certificate:
        raise click.UsageError(f"--tls-cert {certificate} needs --tls-key, the file of its key")
    if key:
        raise click.UsageError(f"--tls-key {key} needs --tls-cert, the file of its certificate")
    if client_ca:
        raise click.UsageError(
            f"--tls-client-ca {client_ca} needs --tls-cert and --tls-key: without TLS nobody shows one"
        )
    return None


def _secrets(context: click.Context) -> Mapping[str, str]:
    """Those that are set, by the variables they are known by."""
    named = {
        "EXO_API_KEY": "api_key",
        "EXO_UPSTREAM_KEY": "upstream_key",
        "EXO_CLUSTER_SECRET": "cluster_secret",
    }
    found = {variable: secret(context, name) for variable, name in named.items()}
    return {variable: value for variable, value in found.items() if value}


def _npu_server(given: Given) -> Mapping[str, str]:
    """What is said of the NPU server, by the variables it is known by. An empty one says it is there."""
    names = ("RKLLM_SERVER_HOST", "RKLLM_SERVER_PORT")
    said: dict[str, Any] = dict(zip(names, (given["npu_host"], given["npu_port"]), strict=True))
    return {
        name: str(value) if value is not None else ""
        for name, value in said.items()
        if value is not None or name in os.environ
    }
