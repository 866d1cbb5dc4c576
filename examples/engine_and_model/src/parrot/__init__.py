"""What the entry points name. It imports little: exo loads it to see what there is."""

from exo.engine import Engine
from exo.engines import EngineOptions
from exo.store.families import Known


def engine(options: EngineOptions) -> Engine:
    """Is called once, by a node that wants the engine."""
    from parrot.engine import Parrot

    return Parrot(slots=options.slots)


def models() -> list[Known]:
    """Short names for models on the hub, for `exo pull`."""
    return [
        Known(
            id="parrot-tiny",
            name="Parrot Tiny",
            sources={"gguf": "example/parrot-tiny-gguf:parrot-tiny.gguf"},
            context=2048,
        )
    ]
