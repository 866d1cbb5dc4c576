"""Looks at the machine, at the running node if there is one, and at what its owner named; changes nothing.

All probes run at once, each for a few seconds at most; one that fails is told of in `Evidence.unread`, and
keeps no other one. Nothing is sent to anybody but this machine's own node and its peers, and the addresses
that its owner named.
"""

import asyncio
from typing import Any

from exo.doctor.evidence import Evidence, Unread
from exo.doctor.gather import https, machine, models, network, others, software
from exo.doctor.gather.probe import awaited, blocking
from exo.doctor.gather.scope import Scope

__all__ = ["Scope", "gather"]

# Seconds for what only reads, for what asks a server a few times, and for a program that has to start.
_READING, _ASKING, _STARTING = 3.0, 3.5, 3.5


async def gather(scope: Scope) -> Evidence:
    """What can be found out within five seconds. Never raises but for cancellation."""
    probes = {
        "software": blocking("Packages", _READING, software.software),
        "engines": awaited("Engines", _STARTING, software.engines()),
        "storage": blocking("Disk", _READING, lambda: machine.storage(scope.home, scope.root)),
        "memory": blocking("Memory", _READING, lambda: machine.memory(scope.root, scope.memory)),
        "ports": blocking("Ports", _READING, lambda: network.ports(scope)),
        "network": blocking("Network", _READING, network.network),
        "node": awaited("Node", _ASKING, others.running_node(scope)),
        "named": awaited("Other nodes", _ASKING, others.named(scope)),
        "servers": awaited("Servers", _ASKING, others.servers(scope)),
        "clock": blocking("Clock", _READING, lambda: machine.clock(scope.root)),
        "shelf": blocking("Models", _ASKING, lambda: models.shelf(scope.folders, scope.context, scope.slots)),
        "security": blocking("Secrets", _READING, lambda: machine.security(scope)),
        "https": blocking("HTTPS", _READING, lambda: https.https(scope)),
        "surroundings": blocking("Environment", _READING, lambda: machine.surroundings(scope)),
        "board": awaited("rkllama doctor", _STARTING, others.board(scope)),
    }
    results = await asyncio.gather(*probes.values())
    found: dict[str, Any] = {
        name: result for name, result in zip(probes, results, strict=True) if not isinstance(result, Unread)
    }
    unread = tuple(result for result in results if isinstance(result, Unread))
    return Evidence(**found, unread=unread)
