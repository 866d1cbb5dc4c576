"""What watches a node asks: whether it is alive, whether it is ready, and its figures."""

from exo.wire.openapi.operations import TEXT, Json, probe, reading, ref
from exo.wire.prometheus import TargetGroup

SCHEMAS: tuple[type, ...] = (TargetGroup,)


def paths() -> Json:
    figures = reading("metrics", "Figures for Prometheus", str)
    figures["responses"]["200"]["content"] = {"text/plain": {"schema": TEXT}}
    targets = reading("targets", "Where Prometheus finds the figures of all nodes", TargetGroup, 400)
    targets["responses"]["200"]["content"] = {
        "application/json": {"schema": {"type": "array", "items": ref(TargetGroup)}}
    }
    return {
        "/healthcheck": {"get": probe("alive", "Whether the process is alive", "It is.")},
        "/ready": {"get": probe("ready", "Whether it can serve", "It can.", 503)},
        "/metrics": {"get": figures},
        "/v1/prometheus/targets": {"get": targets},
    }
