"""Whether traces are recorded, as its owner wants it."""

import exo
from exo.errors import NotReady
from exo.traces.spans import OFF, Traces

REMEDY = "pip install 'exo-rkllama[traces]'"


def opened(collector: str | None, *, service: str, instance: str) -> Traces:
    """Traces that are sent to the collector at this URL; None is for no traces, and imports nothing.

    Raises `NotReady` where the packages for it are missing, and for a sampler that is none.
    """
    if collector is None:
        return OFF
    try:
        from exo.traces.otlp import Recorded
    except ImportError as error:
        raise NotReady(f"--traces takes packages that are not installed ({error}): {REMEDY}") from error
    return Recorded(collector, service=service, version=exo.__version__, instance=instance)
