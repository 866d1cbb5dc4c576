"""The nodes, where a request would go, and which models are where."""

from exo.nodes import Cluster
from exo.wire import cluster
from exo.wire.openapi.operations import (
    ASKING,
    COUNT,
    DEFAULT_MODEL,
    TEXT,
    Json,
    asking,
    late,
    reading,
    ref,
    stream,
)
from exo.wire.shards import PlanAnswer

SCHEMAS: tuple[type, ...] = (
    cluster.LoadBody,
    cluster.SpreadBody,
    Cluster,
    cluster.Topology,
    cluster.RoutesAnswer,
    cluster.LoadAnswer,
    cluster.SpreadAnswer,
    PlanAnswer,
)


def paths() -> Json:
    explain = reading("explain", "Where a request would go, and why", cluster.RoutesAnswer, *ASKING)
    explain["parameters"] = [
        DEFAULT_MODEL,
        {"name": "prompt_tokens", "in": "query", "schema": COUNT},
        {"name": "max_tokens", "in": "query", "schema": COUNT},
    ]
    plan = reading("plan", "Which node would have which layers of a model", PlanAnswer, *ASKING)
    plan["parameters"] = [
        DEFAULT_MODEL,
        {
            "name": "split",
            "in": "query",
            "description": "Layers by hand, NODE:FIRST-LAST and more of these, by commas.",
            "schema": TEXT,
        },
    ]
    load = asking("load", "Bring a model into memory here", cluster.LoadBody, late(cluster.LoadAnswer))
    spread = asking(
        "spread", "Have a model in memory on several nodes", cluster.SpreadBody, late(cluster.SpreadAnswer)
    )
    events = reading("clusterEvents", "The nodes as this one sees them, as they change", Cluster, 400, 429)
    events["responses"]["200"]["content"] = stream(
        "text/event-stream",
        "Events whose data is what /v1/cluster gives: at once, whenever something has changed though once a "
        "second at most, and every five seconds, as temperatures and free memory move without a sign.",
        ref(Cluster),
    )
    topology = reading("topology", "The nodes as the first exo had them", cluster.Topology, 400)
    return {
        "/v1/cluster": {"get": reading("cluster", "The nodes as this one sees them", Cluster, 400)},
        "/v1/cluster/events": {"get": events},
        "/v1/topology": {"get": topology},
        "/v1/route/explain": {"get": explain},
        "/v1/cluster/plan": {"get": plan},
        "/v1/load": {"post": load},
        "/v1/spread": {"post": spread},
    }
