"""The one table of what a node can be told: key in the file, flags, environment variable, and what it does.

`exo serve` takes it, `exo config` explains it, and the JSON Schema, the example and docs/CONFIGURATION.md are
made of it by `scripts/config-schema`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from exo import commandline
from exo.cli import conversions
from exo.configuration import rows
from exo.configuration.command import config_option
from exo.configuration.rows import secret, unflagged
from exo.configuration.setting import Setting
from exo.configuration.size import Size

# As in a request: engines and other nodes take no more than a C int.
_TOKENS = click.IntRange(1, 2**31 - 1)
_TIMEOUT = commandline.Seconds(min=0, min_open=True)

_HOME = Path("~/.cache/exo")
SYSTEM_FILE = Path("/etc/exo/config.toml")


def places(environment: Mapping[str, str]) -> Sequence[Path]:
    """Where a configuration is that nobody names."""
    own = Path(environment.get("EXO_HOME") or _HOME).expanduser() / "config.toml"
    return (own, SYSTEM_FILE)


def _here(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    # It asks this table where models are.
    from exo.cli import completion

    return [CompletionItem(name) for name in completion.here(context, parameter, incomplete)]


CONFIG = config_option("EXO_CONFIG", places, f"EXO_HOME/config.toml or {SYSTEM_FILE}")

flag, per_model = partial(rows.flag, "EXO_"), partial(rows.per_model, "EXO_")

SETTINGS: tuple[Setting, ...] = (
    unflagged(
        "home",
        "home",
        "EXO_HOME",
        type=click.Path(path_type=Path),
        default=_HOME,
        help="Where models, caches and certificates are kept.",
    ),
    flag("http.host", "--host", "--node-host", default="0.0.0.0", help="Address to listen on."),
    flag(
        "http.port",
        "--port",
        "--chatgpt-api-port",
        default=52415,
        type=click.IntRange(0, 65535),
        help="Port to listen on; 0 takes a free one.",
    ),
    flag(
        "http.tls_cert",
        "--tls-cert",
        type=click.Path(path_type=Path),
        sample="/etc/exo/tls/fullchain.pem",
        help="Serve HTTPS with the certificate in this PEM file, and those of the CAs between behind it.",
    ),
    flag(
        "http.tls_key",
        "--tls-key",
        type=click.Path(path_type=Path),
        sample="/etc/exo/tls/privkey.pem",
        help="Its key, in a PEM file that only its owner may read (chmod 600).",
    ),
    flag(
        "http.tls_client_ca",
        "--tls-client-ca",
        type=click.Path(path_type=Path),
        sample="/etc/exo/tls/client-ca.pem",
        help="Serve only clients that show a certificate of the CA in this PEM file.",
    ),
    *secret("http.api_key", "api_key", "EXO_API_KEY", "Asked of every client.", "/etc/exo/api-key"),
    flag(
        "http.cors_origins",
        "--cors-origin",
        multiple=True,
        metavar="ORIGIN",
        sample=["https://chat.example.org"],
        help="Web origin whose pages may use this node, or '*'. May be repeated.",
        about='Web origins whose pages may use this node; "*" is all of them.',
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
        "models.default",
        "--default-model",
        shell_complete=_here,
        sample="qwen-2.5-1.5b",
        help="Model for requests that name none.",
    ),
    flag(
        "models.preload",
        "--preload",
        multiple=True,
        metavar="MODEL",
        shell_complete=_here,
        sample=["qwen-2.5-1.5b"],
        help="Load this model at start. May be repeated.",
        about="Models that are loaded at start.",
    ),
    flag(
        "models.seed_dir",
        "--models-seed-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        sample="/srv/models",
        help="One more folder to look for models in.",
    ),
    flag(
        "models.temperature",
        "--default-temp",
        type=commandline.Number(0, 2),
        sample=0.7,
        help="Temperature for requests that set none.",
    ),
    flag(
        "models.system_prompt",
        "--system-prompt",
        sample="Be brief.",
        help="System message for conversations that have none.",
    ),
    flag(
        "models.max_tokens",
        "--max-generate-tokens",
        type=_TOKENS,
        sample=1024,
        help="Cap on the tokens of any answer.",
    ),
    flag(
        "models.timeout",
        "--timeout",
        "--chatgpt-api-response-timeout",
        default=900.0,
        type=_TIMEOUT,
        help="Seconds of silence from a model after which its answer has failed.",
    ),
    per_model(
        "models.*.max_tokens",
        "--max-generate-tokens-for",
        metavar="MODEL=N",
        each=_TOKENS,
        callback=conversions.for_models(_TOKENS.convert, "deepseek-r1-distill-qwen-7b=4096"),
        sample=4096,
        help="The same for one model, be it more or less. May be repeated.",
        about="Cap on the tokens of this model's answers, be it more or less.",
    ),
    per_model(
        "models.*.timeout",
        "--timeout-for",
        "--chatgpt-api-response-timeout-for",
        metavar="MODEL=SECONDS",
        each=_TIMEOUT,
        callback=conversions.for_models(_TIMEOUT.convert, "deepseek-r1-distill-qwen-7b=1800"),
        sample=1800.0,
        help="The same for one model, be it more or less. May be repeated.",
        about="Seconds of silence after which this model's answer has failed, be it more or less.",
    ),
    per_model(
        "models.*.split",
        "--split",
        metavar="MODEL=NODE:0-13,NODE:14-27",
        each=click.STRING,
        written=conversions.split_text,
        separators="\n",
        callback=conversions.splits,
        sample="node1:0-13,node2:14-27",
        help="Which nodes have which layers of a model, this one the first. May be repeated. "
        "[default: by memory, where no node can hold it alone]",
        about="Which nodes have which layers of this model, this node the first. "
        "Without it, by memory, where no node can hold it alone.",
    ),
    flag(
        "auto.quick",
        "--auto-quick",
        metavar="MODEL",
        shell_complete=_here,
        sample="qwen-2.5-1.5b",
        help='The quick one of the models that "auto" chooses from.',
    ),
    flag(
        "auto.reasoning",
        "--auto-reasoning",
        metavar="MODEL",
        shell_complete=_here,
        sample="deepseek-r1-distill-qwen-7b",
        help="The one that is asked what takes thought.",
    ),
    flag(
        "engine.only",
        "--inference-engine",
        callback=conversions.engine,
        sample="llamacpp",
        help="Only this engine: llamacpp, mlx, tinygrad, rkllm (the models of the NPU server) or dummy.",
    ),
    flag(
        "engine.dtype",
        "--dtype",
        default="auto",
        type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
        help="What mlx and tinygrad compute in: float32 on a CPU, elsewhere the model's own.",
    ),
    flag(
        "engine.threads",
        "--threads",
        type=click.IntRange(min=1),
        sample=4,
        help="CPU threads. [default: the engine's choice]",
    ),
    flag(
        "limits.memory",
        "--memory",
        type=Size(),
        sample="6GB",
        help="What all models together may take, like 6GB. [default: 3/4 of the machine's]",
    ),
    flag(
        "limits.slots",
        "--slots",
        default=4,
        type=click.IntRange(1, 64),
        help="Requests that run at once on one model.",
    ),
    flag(
        "limits.context",
        "--context",
        default=8192,
        type=click.IntRange(min=64),
        help="Most tokens of context a model gets for each of its slots.",
    ),
    flag(
        "limits.waiting",
        "--max-waiting",
        default=64,
        type=click.IntRange(min=1),
        help="Requests that may wait; more are refused with 429.",
    ),
    flag(
        "limits.requests_per_minute",
        "--requests-per-minute",
        type=click.IntRange(1, 10**9),
        sample=60,
        help="Requests that each address may send, where the node has no keys; those that only read do not "
        "count. [default: any number]",
        about="Requests that each address may send, where the node has no keys; those that only read do not "
        "count. Keys have limits of their own (exo key add).",
    ),
    flag(
        "limits.idle_unload",
        "--idle-unload",
        default=300.0,
        type=commandline.Seconds(min=0),
        help="Seconds after which a model nobody uses leaves memory; 0 keeps it.",
    ),
    flag(
        "limits.parallel_downloads",
        "--max-parallel-downloads",
        default=4,
        type=click.IntRange(1, 64),
        help="Files of a model that are downloaded at once.",
    ),
    flag("cluster.name", "--cluster-name", default="exo", help="Nodes of another name are not seen."),
    flag(
        "cluster.node_id",
        "--node-id",
        sample="board1",
        help="Name of this node. [default: host name and a mark of the machine]",
    ),
    flag(
        "cluster.discovery",
        "--discovery-module",
        type=click.Choice(["udp", "manual", "tailscale", "none"]),
        sample="udp",
        help="How other nodes are found. "
        "[default: udp, or none with a --host that only this machine reaches]",
        about="How other nodes are found. "
        "Without it udp, or none with a host that only this machine reaches.",
    ),
    flag(
        "cluster.nodes_file",
        "--discovery-config-path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        sample="nodes.json",
        help="File that names the nodes, for the module manual; read again when it changes.",
    ),
    flag(
        "cluster.peers",
        "--peer",
        multiple=True,
        metavar="HOST",
        sample=["192.168.1.21"],
        help="A node to connect to. May be repeated.",
        about="Nodes to connect to, each a HOST or HOST:PORT.",
    ),
    flag(
        "cluster.routers",
        "--router",
        multiple=True,
        metavar="HOST",
        sample=["192.168.1.10", "192.168.1.11"],
        help="A router of a cluster of many nodes or networks (exo cluster router), the nearest first. "
        "More of them are for when it is gone. No other node is looked for then.",
        about="Routers of a cluster of many nodes or networks (exo cluster router), the nearest first. "
        "More of them are for when it is gone. No other node is looked for then.",
    ),
    flag(
        "cluster.port",
        "--cluster-port",
        default=7447,
        type=click.IntRange(1, 65535),
        help="Port at which nodes find each other; a free one where it is taken.",
    ),
    flag(
        "cluster.wait_for_peers",
        "--wait-for-peers",
        default=0,
        type=click.IntRange(min=0),
        help="Other nodes that have to be there before this one says that it is ready.",
    ),
    *secret(
        "cluster.secret",
        "cluster_secret",
        "EXO_CLUSTER_SECRET",
        "Only nodes with the same one belong to the cluster.",
        "/etc/exo/cluster-secret",
    ),
    flag(
        "upstreams.urls",
        "--upstream",
        multiple=True,
        metavar="URL",
        callback=conversions.servers,
        sample=["http://192.168.1.20:8000"],
        help="Offer the models of this OpenAI-compatible server, too. May be repeated.",
        about="OpenAI-compatible servers whose models are offered, too.",
    ),
    *secret(
        "upstreams.key",
        "upstream_key",
        "EXO_UPSTREAM_KEY",
        "Sent to each of them.",
        "/etc/exo/upstream-key",
    ),
    unflagged(
        "npu.host",
        "npu_host",
        "RKLLM_SERVER_HOST",
        sample="localhost",
        help="Machine of the NPU server. Its models are offered where host or port is said, or [engine] only "
        "is rkllm; then localhost is the default.",
    ),
    unflagged(
        "npu.port",
        "npu_port",
        "RKLLM_SERVER_PORT",
        type=click.IntRange(1, 65535),
        sample=8080,
        help="Port of the NPU server; 8080 without it.",
    ),
    rows.traces("EXO_"),
    flag(
        "log.plain",
        "--disable-tui",
        is_flag=True,
        default=False,
        help="Plain log lines, on a terminal too, where there is a live panel without it.",
    ),
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

VARIABLES = frozenset({"EXO_CONFIG", *(each.variable for each in SETTINGS)})


def usual(name: str) -> Any:
    """The default of the setting that `serve` calls `name`."""
    return next(each.usual for each in SETTINGS if each.name == name)
