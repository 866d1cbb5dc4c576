"""What the first exo-rkllama accepted and this one does not, and what to do instead."""

from collections.abc import Mapping

_NO_PORTS = "nodes find each other at one port. Use --cluster-port"
_TAILSCALE = "the tailscale program on this machine is asked, which needs no key. Leave it out"

RETIRED: Mapping[str, str] = {
    "--node-port": "nodes are reached at the port of their API. Use --chatgpt-api-port",
    "--discovery-timeout": "a node that is gone is noticed within seconds. Leave it out",
    "--listen-port": _NO_PORTS,
    "--broadcast-port": _NO_PORTS,
    "--max-parallel-downloads": "this release downloads nothing; put .gguf files into the models folder",
    "--download-quick-check": "this release downloads nothing; put .gguf files into the models folder",
    "--tailscale-api-key": _TAILSCALE,
    "--tailnet-name": _TAILSCALE,
    "--run-model": "use the command: exo run MODEL",
    "--prompt": "give the question after the model: exo run MODEL 'QUESTION'",
    "--tui": "there is no panel in this release yet; exo ps shows the node",
}

ENGINES: Mapping[str, str] = {
    "mlx": "the MLX engine is not in this release yet",
    "tinygrad": "the tinygrad engine is not in this release yet",
}
