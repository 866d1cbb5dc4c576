"""No engine of layers, though it looks like one from outside."""

from collections.abc import Mapping

from tests.shards import troubled

ENVIRONMENT: Mapping[str, str] = troubled.ENVIRONMENT
