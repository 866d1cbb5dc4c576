"""What is asked about the cluster: its nodes, as values and in the original's shape, and where a request
would go."""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from exo.errors import BadRequest
from exo.http.app import json_answer
from exo.http.desk import DESK
from exo.nodes import Cluster, Device
from exo.routing import Asked

_MIB = 1 << 20


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        web.get("/v1/cluster", cluster),
        web.get("/v1/topology", topology),
        web.get("/v1/route/explain", explain),
    ]


async def cluster(http: web.Request) -> web.Response:
    return json_answer(msgspec.json.encode(http.app[DESK].served.cluster()))


async def topology(http: web.Request) -> web.Response:
    return json_answer(msgspec.json.encode(as_topology(http.app[DESK].served.cluster())))


async def explain(http: web.Request) -> web.Response:
    """`?model=ID`, and if known `&prompt_tokens=N&max_tokens=N`: the nodes that could answer, best first."""
    if unknown := http.query.keys() - {"model", "prompt_tokens", "max_tokens"}:
        name = min(unknown)
        raise BadRequest(
            f'unknown parameter "{name}"; there are model, prompt_tokens, max_tokens', param=name
        )
    served = http.app[DESK].served
    card = await served.card(http.query.get("model", ""))
    prompt, answer = _number(http, "prompt_tokens"), _number(http, "max_tokens")
    routes = served.explain(Asked(model=card.id, prompt=prompt or 0, answer=answer))
    shown = [{"node": route.node.id, "seconds": route.seconds, "why": route.why} for route in routes]
    return json_answer(msgspec.json.encode({"model": card.id, "routes": shown}))


def as_topology(cluster: Cluster) -> dict[str, object]:
    """The cluster as the first exo-rkllama had it: every node is linked to every other one. What a node
    can compute is not known in FLOPS, and 0 as there for chips that were not in its table."""
    nodes = (cluster.me, *cluster.peers)
    ids = [node.id for node in nodes]
    return {
        "nodes": {node.id: _capabilities(node.device) for node in nodes},
        "peer_graph": {
            id: [{"from_id": id, "to_id": other, "description": "HTTP"} for other in ids if other != id]
            for id in ids
        },
        "active_node_id": cluster.me.id,
    }


def _capabilities(device: Device) -> dict[str, object]:
    return {
        "model": device.name,
        "chip": device.chip or device.kind,
        "memory": device.memory // _MIB,
        "flops": {"fp32": 0, "fp16": 0, "int8": 0},
    }


def _number(http: web.Request, name: str) -> int | None:
    text = http.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest(f"{name} must be a number of tokens", param=name)
    return int(text)
