"""Which engines a node has, and what they would rather load."""

from collections.abc import Iterable

from exo.cards import Format
from exo.engine import Engine
from exo.engines import ENGINES, EngineOptions, others
from exo.store.catalogue import FORMATS


def enabled(wanted: str | None, options: EngineOptions) -> dict[str, Engine]:
    """The one that is wanted, of whichever package, or all of ours; none for the NPU server."""
    if wanted is not None and wanted not in (*ENGINES, "rkllm"):
        return {wanted: others.make(wanted, options)}
    return {name: make(options) for name, make in ENGINES.items() if wanted in (None, name)}


def preferred(engines: Iterable[Engine]) -> tuple[Format, ...]:
    """What is to be loaded in, in the order of the engines that can."""
    able = [engine for engine in engines if not engine.unavailable()]
    found = [format for engine in able for format in FORMATS if format in engine.formats]
    return tuple(dict.fromkeys((*found, *FORMATS)))
