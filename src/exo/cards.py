"""What is known of a model before it is loaded."""

from typing import Literal, TypeAlias

import msgspec

from exo.chat import Sampling

Format: TypeAlias = Literal["gguf", "safetensors", "rkllm", "script", "remote"]
Capability: TypeAlias = Literal["completion", "embedding", "thinking", "tools"]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be asked for by `id`.

    `format` picks the engine. `context` is in tokens, prompt and answer together. `bytes` is the size of
    its files on disk, `memory` an estimate of what it takes when loaded, in bytes: weights and a full KV
    cache. `created` is in seconds since the epoch. `quantization` is the weights' type as its makers name
    it ("Q8_0", "w8a8"). `sampling`, `system` and `thinking` are what a request gets that leaves them open.
    `capabilities` are what it is known to be made for; one that is missing may be there all the same, as a
    card is made without reading the chat template.

    No engine here loads what another server keeps, "rkllm" the NPU server and "remote" any other; of these
    `context`, `bytes` and `memory` are 0.
    """

    id: str
    format: Format
    context: int
    bytes: int
    memory: int
    architecture: str = ""
    parameters: int = 0
    created: int = 0
    owned_by: str = "local"
    quantization: str = ""
    capabilities: tuple[Capability, ...] = ("completion",)
    sampling: Sampling = Sampling()
    system: str = ""
    thinking: bool | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A model made of the files of another one, `base`, with answers to what requests leave open."""

    base: str
    system: str = ""
    sampling: Sampling = Sampling()
    thinking: bool | None = None
    context: int | None = None


class Progress(msgspec.Struct, frozen=True):
    """How far a download has come: bytes of `file` that are here, and all of them (0 where unknown)."""

    file: str
    done: int
    total: int
