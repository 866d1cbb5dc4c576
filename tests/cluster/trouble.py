"""An engine of layers that runs here, and gets into trouble on request."""

from tests.shards.troubled import ENVIRONMENT, open_shard

__all__ = ["ENVIRONMENT", "open_shard", "unavailable"]


def unavailable() -> str | None:
    return None
