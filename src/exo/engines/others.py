"""Engines of other packages, by entry points of the group `exo.engines`: a name, and what makes the engine
from `EngineOptions`. One is imported when it is named, or when a model on the disk needs it."""

import logging
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import EntryPoint, entry_points

from exo.engine import Engine
from exo.engines import ENGINES, EngineOptions
from exo.errors import EngineFailed
from exo.store.families import distribution

log = logging.getLogger(__name__)

GROUP = "exo.engines"


def names() -> list[str]:
    """Those that are there. Ours cannot be replaced. Imports none."""
    return sorted({point.name for point in _points()})


def make(name: str, options: EngineOptions) -> Engine:
    """The engine of that name. Raises `EngineFailed` naming its package where it is broken, or not there."""
    for point in _points():
        if point.name == name:
            return _made(point, options)
    raise EngineFailed(f"there is no engine '{name}'; the package that has it is not installed here")


def needed(formats: Collection[str], options: EngineOptions) -> Iterator[tuple[str, Engine]]:
    """Names and engines of those that load any of `formats` on this machine. One that is broken is logged
    with its package, and left out."""
    for point in _points() if formats else ():
        try:
            engine = _made(point, options)
        except EngineFailed as error:
            log.warning("left out an engine: %s", error.message)
            continue
        if engine.formats & set(formats) and engine.unavailable() is None:
            yield point.name, engine


def _points() -> list[EntryPoint]:
    return [point for point in entry_points(group=GROUP) if point.name not in ENGINES]


def _made(point: EntryPoint, options: EngineOptions) -> Engine:
    try:
        factory: Callable[[EngineOptions], Engine] = point.load()
        engine = factory(options)
        if not isinstance(engine.formats, frozenset) or not callable(engine.load):
            raise TypeError("what it makes is no engine")
    except Exception as error:
        raise EngineFailed(
            f"{distribution(point)}: its engine '{point.name}' cannot be used: {error or repr(error)}"
        ) from error
    return engine
