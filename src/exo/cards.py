"""What is known of a model before it is loaded."""

from typing import Literal, TypeAlias

import msgspec

from exo.chat import Sampling

Format: TypeAlias = Literal["gguf", "safetensors", "rkllm", "script", "remote"]
Dtype: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]
"""What a model's layers are computed in. "auto" is float32 on a CPU and the files' own type elsewhere."""
Capability: TypeAlias = Literal["completion", "embedding", "thinking", "tools"]


class Span(msgspec.Struct, frozen=True):
    """A contiguous range of a model's layers, counted from 0; `end` is the first that is not in it."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}-{self.end - 1}"


class Share(msgspec.Struct, frozen=True):
    """The layers of a model that are on one node."""

    node: str
    span: Span


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be asked for by `id`.

    `format` picks the engine. `context` is in tokens, prompt and answer together. `bytes` is the size of
    its files on disk, `memory` an estimate of what it takes when loaded, in bytes: weights and a full KV
    cache. `created` is in seconds since the epoch. `quantization` is the weights' type as its makers name
    it ("Q8_0", "w8a8"). `sampling`, `system` and `thinking` are what a request gets that leaves them open.
    `layers` is how many it could be split by; 0 where it cannot. With a `split`, the node that has the first
    share answers for it, and `memory` is of the part on the node whose card this is. It is not `whole` where
    some of its files are missing on that node's disk, so that it can only be loaded in parts.
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
    layers: int = 0
    split: tuple[Share, ...] = ()
    whole: bool = True
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
