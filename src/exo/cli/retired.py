"""What the first exo-rkllama accepted and this one does not, and what to do instead."""

from collections.abc import Mapping

_NO_PORTS = "nodes find each other at one port. Use --cluster-port"
_TAILSCALE = "the tailscale program on this machine is asked, which needs no key. Leave it out"

RETIRED: Mapping[str, str] = {
    "--node-port": "nodes are reached at the port of their API. Use --chatgpt-api-port",
    "--discovery-timeout": "a node that is gone is noticed within seconds. Leave it out",
    "--listen-port": _NO_PORTS,
    "--broadcast-port": _NO_PORTS,
    "--download-quick-check": "what is on the disk is known by its checksum. Leave it out",
    "--tailscale-api-key": _TAILSCALE,
    "--tailnet-name": _TAILSCALE,
    "--run-model": "use the command: exo run MODEL",
    "--prompt": "give the question after the model: exo run MODEL 'QUESTION'",
    "--tui": "there is no panel in this release yet; exo ps shows the node",
}
