"""What is asked for, and the machine that is to do it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What the user asks for. None stands for what suits the platform and the model."""

    platform: str
    dtype: str | None = None
    algorithm: str = "normal"
    hybrid_rate: float = 0.0
    npu_cores: int | None = None
    max_context: int | None = None
    optimization_level: int = 0
    lora: str | None = None
    dataset: str | None = None
    calibrate: int = 0
    seed: int = 0
    device: str = "cpu"
    load_dtype: str = "float32"
    name: str | None = None


@dataclass(frozen=True)
class Machine:
    """The machine and the toolkit that convert. `memory` and `disk` are free bytes, None where not known.
    `toolkit` is the version the toolkit calls itself, None where there is none; `broken` says why it cannot
    be imported, and `lacks` which parameters that `table` gives it are not there."""

    python: tuple[int, int]
    toolkit: str | None
    system: str = "Linux"
    machine: str = "x86_64"
    cuda: bool = False
    memory: int | None = None
    disk: int | None = None
    broken: str = ""
    lacks: tuple[str, ...] = ()
