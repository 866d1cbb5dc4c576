"""Makes the card of a model on disk from what its own files say."""

import math
from collections.abc import Mapping
from pathlib import Path

from exo.cards import ModelCard
from exo.errors import EngineFailed
from exo.store import checkpoint, gguf

SCRIPT = ".script.json"
"""How the name of a scripted model's file ends."""

_SCRIPT_MEMORY = 1 << 20
# Of a weight as mlx-lm quantizes it, beside the packed integers.
_SCALES = (".scales", ".biases")
_PACKED_BITS = 32


def read_card(
    name: str, path: Path, most: int | None = None, slots: int = 1, *, width: int | None = 4
) -> ModelCard:
    """Makes the card of a file (GGUF or a script), or of a folder with config.json and safetensors. Where
    files of a folder are missing, sizes are reckoned from those that are here and what the index says of all.

    The card promises at most `most` tokens of context, and counts KV caches for `slots` requests. `width` is
    how many bytes an engine for safetensors computes with, 4 for the float32 of a CPU; None is as stored.
    Raises `EngineFailed` where it is not a model.
    """
    if path.is_dir():
        return _safetensors_card(name, path, most, slots, width)
    stat = path.stat()
    if path.name.endswith(SCRIPT):
        return ModelCard(
            id=name,
            format="script",
            context=4096,
            bytes=stat.st_size,
            memory=_SCRIPT_MEMORY,
            architecture="script",
            created=int(stat.st_mtime),
        )
    facts = gguf.read(path, before="tokenizer.")
    try:
        return _gguf_card(name, path, facts, most, slots)
    except (ValueError, OverflowError) as error:
        raise EngineFailed(
            f"{path}: its header has something else where a number belongs: {error}"
        ) from error


def _gguf_card(
    name: str, path: Path, facts: Mapping[str, gguf.Value], most: int | None, slots: int
) -> ModelCard:
    stat = path.stat()
    architecture = str(facts.get("general.architecture", ""))
    context = int(facts.get(f"{architecture}.context_length", 0))
    if not context:
        raise EngineFailed(f"{path}: its header names no context length")
    context = min(context, most or context)
    return ModelCard(
        id=name,
        format="gguf",
        context=context,
        bytes=stat.st_size,
        memory=stat.st_size + slots * context * _kv_bytes(facts, architecture),
        architecture=architecture,
        parameters=gguf.parameters(facts),
        created=int(stat.st_mtime),
        quantization=gguf.quantization(facts),
        capabilities=("embedding",) if f"{architecture}.pooling_type" in facts else ("completion",),
    )


def _kv_bytes(facts: Mapping[str, gguf.Value], architecture: str) -> int:
    """Bytes of 16-bit KV cache a token takes, by the model's own figures; 0 where it gives none."""

    def figure(name: str) -> int:
        return int(facts.get(f"{architecture}.{name}", 0))

    heads = figure("attention.head_count")
    kv_heads = figure("attention.head_count_kv") or heads
    width = figure("attention.key_length") or (figure("embedding_length") // heads if heads else 0)
    return 2 * 2 * figure("block_count") * kv_heads * width


def _safetensors_card(name: str, folder: Path, most: int | None, slots: int, width: int | None) -> ModelCard:
    config = checkpoint.read(folder)
    places = checkpoint.tensors(folder)
    files = [(folder / file).stat() for file in {place.file for place in places.values()}]
    context = min(config.context, most or config.context)
    cache = context * config.layers * checkpoint.kv_bytes(config, width or 2)
    weights = checkpoint.weight_bytes(config, places.values(), width)
    parameters = _parameters(config, places)
    size = sum(file.st_size for file in files)
    whole = checkpoint.whole(folder)
    if not whole:
        total = checkpoint.total_bytes(folder)
        if total is None:
            raise EngineFailed(f"{folder}: files are missing, and its index does not say how large they are")
        here = sum(place.bytes for place in places.values())
        weights, parameters, size = (total * each // here for each in (weights, parameters, here))
    return ModelCard(
        id=name,
        format="safetensors",
        context=context,
        bytes=size,
        memory=weights + slots * cache,
        architecture=config.architecture,
        parameters=parameters,
        whole=whole,
        layers=config.layers,
        created=int(max(file.st_mtime for file in files)),
        quantization=_quantization(config, places),
    )


def _parameters(config: checkpoint.Config, places: Mapping[str, checkpoint.Place]) -> int:
    """How many weights, those that mlx-lm packed into integers included."""
    if not config.quantization:
        return sum(math.prod(place.shape) for place in places.values())
    bits = int(config.quantization["bits"])
    return sum(
        math.prod(place.shape) * _PACKED_BITS // bits if place.dtype == "U32" else math.prod(place.shape)
        for name, place in places.items()
        if not name.endswith(_SCALES)
    )


def _quantization(config: checkpoint.Config, places: Mapping[str, checkpoint.Place]) -> str:
    """The type of most of the weights, "BF16", or "4bit" as mlx-lm names it."""
    if config.quantization:
        return f"{config.quantization['bits']}bit"
    by_type: dict[str, int] = {}
    for place in places.values():
        by_type[place.dtype] = by_type.get(place.dtype, 0) + place.bytes
    return max(by_type, key=lambda dtype: by_type[dtype])
