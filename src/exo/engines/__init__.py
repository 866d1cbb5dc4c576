"""The engines: one file each, imported only when it is wanted, and one row each in this table."""

from collections.abc import Callable, Mapping

import msgspec

from exo.engine import Engine


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner set for all engines: requests at once per model, context cap in tokens, CPU
    threads (None: the engine's own choice)."""

    slots: int = 4
    context: int | None = None
    threads: int | None = None


def _llamacpp(options: EngineOptions) -> Engine:
    from exo.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(slots=options.slots, context=options.context, threads=options.threads)


def _scripted(options: EngineOptions) -> Engine:
    from exo.engines.scripted import ScriptedEngine

    return ScriptedEngine()


ENGINES: Mapping[str, Callable[[EngineOptions], Engine]] = {
    "llamacpp": _llamacpp,
    "dummy": _scripted,
}
