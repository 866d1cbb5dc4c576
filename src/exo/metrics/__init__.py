"""What a node measures of itself, for Prometheus.

The names of the first exo-rkllama are kept (a dashboard made for it still works) and are now true; see
docs/METRICS.md.
"""

from exo.metrics.answer import Answer
from exo.metrics.registry import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Answer", "Metrics"]
