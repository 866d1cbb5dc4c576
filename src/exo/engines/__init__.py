"""The engines: one file each, imported only when it is wanted, and one row each in this table."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from exo.cards import Dtype
from exo.engine import Engine
from exo.shards.engine import LayersEngine, Plan


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner set for all engines: requests at once per model, context cap in tokens, CPU
    threads (None: the engine's own choice). For engines of layers: what they compute in, a folder for what
    they compile, and how models are split over nodes."""

    slots: int = 4
    context: int | None = None
    threads: int | None = None
    dtype: Dtype = "auto"
    cache: Path | None = None
    plan: Plan | None = None


def _llamacpp(options: EngineOptions) -> Engine:
    from exo.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(slots=options.slots, context=options.context, threads=options.threads)


def _layers(name: str) -> Callable[[EngineOptions], Engine]:
    def make(options: EngineOptions) -> Engine:
        return LayersEngine(
            name,
            f"exo.engines.{name}",
            slots=options.slots,
            context=options.context,
            threads=options.threads,
            dtype=options.dtype,
            cache=options.cache,
            plan=options.plan,
        )

    return make


def _scripted(options: EngineOptions) -> Engine:
    from exo.engines.scripted import ScriptedEngine

    return ScriptedEngine()


ENGINES: Mapping[str, Callable[[EngineOptions], Engine]] = {
    "llamacpp": _llamacpp,
    "mlx": _layers("mlx"),
    "tinygrad": _layers("tinygrad"),
    "dummy": _scripted,
}
