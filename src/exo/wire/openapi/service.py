"""What watches a node asks: whether it is alive, whether it is ready, and its figures."""

from exo.wire.openapi.operations import TEXT, Json, probe


def paths() -> Json:
    figures = {"text/plain": {"schema": TEXT}}
    return {
        "/healthcheck": {"get": probe("alive", "Whether the process is alive", "It is.")},
        "/ready": {"get": probe("ready", "Whether it can serve", "It can.", 503)},
        "/metrics": {"get": probe("metrics", "Figures for Prometheus", "The figures.", content=figures)},
    }
