"""What is known of a model before it is loaded."""

from typing import Literal, TypeAlias

import msgspec

Format: TypeAlias = Literal["gguf", "safetensors", "rkllm", "script"]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be asked for by `id`.

    `format` picks the engine. `context` is in tokens, prompt and answer together. `bytes` is the size of
    its files on disk, `memory` an estimate of what it takes when loaded, in bytes: weights and a full KV
    cache. `created` is in seconds since the epoch.
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
