"""Which engine loads a model. Pure."""

from collections.abc import Iterable

from exo.cards import ModelCard
from exo.engine import Engine
from exo.errors import EngineFailed


def formats(engines: Iterable[Engine]) -> tuple[str, ...]:
    """What those load that run on this machine."""
    return tuple(
        sorted({format for engine in engines if not engine.unavailable() for format in engine.formats})
    )


def loads(card: ModelCard, engines: Iterable[Engine]) -> bool:
    """Whether one is for this model's format, be it that it runs here or not."""
    return any(card.format in engine.formats for engine in engines)


def engine_for(card: ModelCard, engines: Iterable[Engine]) -> Engine:
    """The first that loads the model here. Raises `EngineFailed` with what is wrong with those that would."""
    reasons = []
    for engine in engines:
        if card.format in engine.formats:
            if (why := engine.unavailable()) is None:
                return engine
            reasons.append(why)
    if reasons:
        raise EngineFailed(f"model '{card.id}' cannot be loaded: {'; '.join(reasons)}")
    raise EngineFailed(f"model '{card.id}' is {card.format}, which no engine enabled on this node loads")
