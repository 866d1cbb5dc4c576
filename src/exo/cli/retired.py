"""What the first exo-rkllama accepted and this one does not, and what to do instead."""

from collections.abc import Mapping

_NO_CLUSTER = "this release serves one machine; finding other nodes comes with a later one. Leave it out"

RETIRED: Mapping[str, str] = {
    "--node-port": "nodes are reached at the port of their API. Use --chatgpt-api-port",
    "--wait-for-peers": _NO_CLUSTER,
    "--discovery-module": _NO_CLUSTER,
    "--discovery-config-path": _NO_CLUSTER,
    "--discovery-timeout": _NO_CLUSTER,
    "--listen-port": _NO_CLUSTER,
    "--broadcast-port": _NO_CLUSTER,
    "--max-parallel-downloads": "this release downloads nothing; put .gguf files into the models folder",
    "--download-quick-check": "this release downloads nothing; put .gguf files into the models folder",
    "--tailscale-api-key": _NO_CLUSTER,
    "--tailnet-name": _NO_CLUSTER,
    "--run-model": "use the command: exo run MODEL",
    "--prompt": "give the question after the model: exo run MODEL 'QUESTION'",
    "--tui": "there is no panel in this release yet; exo ps shows the node",
}

ENGINES: Mapping[str, str] = {
    "mlx": "the MLX engine is not in this release yet",
    "tinygrad": "the tinygrad engine is not in this release yet",
}
