"""`exo serve`: flags and environment to settings, and a node that runs."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from exo import commandline
from exo.cards import Dtype, Share
from exo.choice import partition
from exo.cli import clusters, completion, options
from exo.cli.upstreams import server_url, upstreams
from exo.errors import BadRequest
from exo.settings import AutoSettings, Defaults, HttpSettings, LayersSettings, Settings

# As in a request: engines and other nodes take no more than a C int.
_TOKENS = click.IntRange(1, 2**31 - 1)


def _engine(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from exo.engines import ENGINES

    # The NPU is not driven by this process but by a server: see `upstreams`.
    if value is None or value in (*ENGINES, "rkllm"):
        return value
    from exo.engines import others

    if value in (theirs := others.names()):
        return value
    raise click.BadParameter(
        f"'{value}': there is no such engine. There is {', '.join((*ENGINES, *theirs))} and rkllm"
    )


def _servers(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(server_url(each) for each in given)


def _splits(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, tuple[Share, ...]]:
    splits = {}
    for text in given:
        try:
            model, shares = partition.parse(text)
        except BadRequest as error:
            raise click.BadParameter(error.message) from error
        if model in splits:
            raise click.BadParameter(f"{model} is split twice")
        splits[model] = shares
    return splits


@click.command()
@click.option("--host", "--node-host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    "--chatgpt-api-port",
    default=52415,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--timeout",
    "--chatgpt-api-response-timeout",
    default=900.0,
    show_default=True,
    type=commandline.Seconds(min=0, min_open=True),
    help="Seconds of silence from a model after which its answer has failed.",
)
@click.option(
    "--timeout-for",
    "--chatgpt-api-response-timeout-for",
    multiple=True,
    metavar="MODEL=SECONDS",
    callback=options.for_models(
        commandline.Seconds(min=0, min_open=True).convert, "deepseek-r1-distill-qwen-7b=1800"
    ),
    help="The same for one model, be it more or less. May be repeated.",
)
@click.option(
    "--grace",
    default=15.0,
    show_default=True,
    type=commandline.Seconds(min=0),
    help="Seconds that answers under way get at shutdown.",
)
@click.option(
    "--keepalive",
    default=5.0,
    show_default=True,
    type=commandline.Seconds(min=0.1),
    help="Seconds of silence after which a stream gets a comment, so that nobody takes it for dead.",
)
@click.option("--node-id", help="Name of this node. [default: host name and a mark of the machine]")
@click.option(
    "--inference-engine",
    callback=_engine,
    help="Only this engine: llamacpp, mlx, tinygrad, rkllm (the models of the NPU server) or dummy.",
)
@click.option(
    "--upstream",
    multiple=True,
    metavar="URL",
    callback=_servers,
    help="Offer the models of this OpenAI-compatible server, too. May be repeated.",
)
@click.option(
    "--discovery-module",
    type=click.Choice(["udp", "manual", "tailscale", "none"]),
    help="How other nodes are found. [default: udp, or none with a --host that only this machine reaches]",
)
@click.option(
    "--discovery-config-path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that names the nodes, for the module manual; read again when it changes.",
)
@click.option("--peer", multiple=True, metavar="HOST", help="A node to connect to. May be repeated.")
@click.option(
    "--router",
    multiple=True,
    metavar="HOST",
    help="A router of a cluster of many nodes or networks (exo cluster router), the nearest first. More of "
    "them are for when it is gone. No other node is looked for then.",
)
@click.option("--cluster-name", default="exo", show_default=True, help="Nodes of another name are not seen.")
@click.option(
    "--cluster-port",
    default=7447,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port at which nodes find each other; a free one where it is taken.",
)
@click.option(
    "--wait-for-peers",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Other nodes that have to be there before this one says that it is ready.",
)
@click.option("--default-model", shell_complete=completion.here, help="Model for requests that name none.")
@click.option(
    "--auto-quick",
    metavar="MODEL",
    shell_complete=completion.here,
    help='The quick one of the models that "auto" chooses from.',
)
@click.option(
    "--auto-reasoning",
    metavar="MODEL",
    shell_complete=completion.here,
    help="The one that is asked what takes thought.",
)
@click.option("--default-temp", type=click.FloatRange(0, 2), help="Temperature for requests that set none.")
@click.option("--max-generate-tokens", type=_TOKENS, help="Cap on the tokens of any answer.")
@click.option(
    "--max-generate-tokens-for",
    multiple=True,
    metavar="MODEL=N",
    callback=options.for_models(_TOKENS.convert, "deepseek-r1-distill-qwen-7b=4096"),
    help="The same for one model, be it more or less. May be repeated.",
)
@click.option("--system-prompt", help="System message for conversations that have none.")
@click.option(
    "--models-seed-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="One more folder to look for models in.",
)
@click.option(
    "--max-parallel-downloads",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Files of a model that are downloaded at once.",
)
@click.option("--memory", help="What all models together may take, like 6GB. [default: 3/4 of the machine's]")
@click.option(
    "--slots",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Requests that run at once on one model.",
)
@click.option(
    "--context",
    default=8192,
    show_default=True,
    type=click.IntRange(min=64),
    help="Most tokens of context a model gets for each of its slots.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="What mlx and tinygrad compute in: float32 on a CPU, elsewhere the model's own.",
)
@click.option(
    "--split",
    multiple=True,
    metavar="MODEL=NODE:0-13,NODE:14-27",
    callback=_splits,
    help="Which nodes have which layers of a model, this one the first. May be repeated. "
    "[default: by memory, where no node can hold it alone]",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: the engine's choice]")
@click.option(
    "--max-waiting",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Requests that may wait; more are refused with 429.",
)
@click.option(
    "--idle-unload",
    default=300.0,
    show_default=True,
    type=commandline.Seconds(min=0),
    help="Seconds after which a model nobody uses leaves memory; 0 keeps it.",
)
@click.option(
    "--preload",
    multiple=True,
    metavar="MODEL",
    shell_complete=completion.here,
    help="Load this model at start. May be repeated.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Web origin whose pages may use this node, or '*'. May be repeated.",
)
@click.option("--disable-tui", is_flag=True, help="Plain log lines, which is all there is in this release.")
def serve(
    host: str,
    port: int,
    timeout: float,
    timeout_for: Mapping[str, float],
    grace: float,
    keepalive: float,
    node_id: str | None,
    inference_engine: str | None,
    upstream: tuple[str, ...],
    discovery_module: clusters.Discovery | None,
    discovery_config_path: Path | None,
    peer: tuple[str, ...],
    router: tuple[str, ...],
    cluster_name: str,
    cluster_port: int,
    wait_for_peers: int,
    default_model: str | None,
    auto_quick: str | None,
    auto_reasoning: str | None,
    default_temp: float | None,
    max_generate_tokens: int | None,
    max_generate_tokens_for: Mapping[str, int],
    system_prompt: str | None,
    models_seed_dir: Path | None,
    max_parallel_downloads: int,
    memory: str | None,
    slots: int,
    context: int,
    dtype: Dtype,
    split: Mapping[str, tuple[Share, ...]],
    threads: int | None,
    max_waiting: int,
    idle_unload: float,
    preload: tuple[str, ...],
    cors_origin: tuple[str, ...],
    disable_tui: bool,
) -> None:
    """Start a node and answer until Ctrl-C or SIGTERM.

    Models are in EXO_HOME/models (default ~/.cache/exo/models): what `exo pull` has put there, .gguf files,
    and folders with config.json and safetensors. The bundled exo-demo is always there.
    EXO_API_KEY, when set, is asked of every client. DEBUG=1 logs more.

    The models of the NPU server are offered where it is named, by RKLLM_SERVER_HOST (default localhost),
    RKLLM_SERVER_PORT (default 8080) or the engine rkllm. EXO_UPSTREAM_KEY is sent to each --upstream.

    Nodes on the same network find each other and answer for each other. With EXO_CLUSTER_SECRET only those
    that have the same one do; with EXO_API_KEY all need the same one.
    """
    commandline.log_to_stderr()
    own_id = node_id or options.node_id(port)
    for model, shares in split.items():
        if shares[0].node != own_id:
            raise click.UsageError(
                f"--split {model}: the first layers are {shares[0].node}'s, and this node is {own_id}. "
                f"Give it to that node, whose split is this one's, too"
            )
    settings = Settings(
        http=HttpSettings(
            host=host,
            port=port,
            grace=grace,
            keepalive=keepalive,
            cors_origins=cors_origin,
            key=commandline.key(),
        ),
        auto=AutoSettings(quick=auto_quick, reasoning=auto_reasoning),
        defaults=Defaults(
            model=default_model,
            temperature=default_temp,
            max_tokens=max_generate_tokens,
            max_tokens_for=max_generate_tokens_for,
            system_prompt=system_prompt,
        ),
        node_id=own_id,
        folders=options.model_folders(models_seed_dir),
        upstreams=upstreams(os.environ, upstream, inference_engine, port),
        engine=inference_engine,
        memory=commandline.memory_size(memory),
        waiting=max_waiting,
        slots=slots,
        context=context,
        threads=threads,
        layers=LayersSettings(dtype=dtype, cache=options.home() / "cache", splits=split),
        idle_seconds=idle_unload or None,
        silence=timeout,
        silence_for=timeout_for,
        wait_for_peers=wait_for_peers,
        parallel_downloads=max_parallel_downloads,
        preload=preload,
    )
    import uvloop

    from exo import assembly

    cluster = clusters.settings(
        host,
        name=cluster_name,
        discovery=discovery_module,
        manual_file=discovery_config_path,
        port=cluster_port,
        peers=peer,
        routers=router,
        environment=os.environ,
    )
    uvloop.run(assembly.run(settings, cluster))
