"""Layers on MLX: Apple's GPUs, and NVIDIA's or the CPU under Linux.

Theory of operation. The layers are mlx-lm's own modules (`mlx_lm.models`), built for as many layers as the
span has; weights are renumbered from the span's start as they are read, and `mx.load` reads only the tensors
that are evaluated. What surrounds the layers is taken away where the shard is without `ends`. Each slot has
mlx-lm's KV cache for every layer, which grows by 256 tokens at a time and is trimmed by its offset alone.
MLX builds a graph and computes it when asked: a step asks once, for what it returns.

What is known of mlx 0.32 and mlx-lm 0.32 and guarded against here: mlx-lm's package imports transformers,
which only its tokenizers need, so that its models are imported around it; its qwen2 takes another rope_theta
where config.json has none at its top level (`checkpoint` puts it there); on the CPU `mx.compile` runs a C++
compiler, for nothing; an unevaluated array belongs to the thread that made it; an id beyond the
vocabulary reads memory beyond the embedding. On a CPU MLX computes in one thread, whatever `threads` is.

Verified on Linux with the CPU. What the GPU does otherwise (compute in the stored type, the wired limit of
macOS) has not been.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from exo.cards import Dtype, Span
from exo.errors import EngineFailed
from exo.store import checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from exo.shards.shard import Hidden, Logits

ENVIRONMENT: Mapping[str, str] = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Weights on the CPU are in huge pages where the kernel gives them on demand: about 9 % faster, as measured.
What else MLX has to be told is told in its process, where it is known whether there is a GPU."""

_REMEDY = "pip install 'exo-rkllama[mlx]'"
# The wheels of MLX are manylinux_2_35.
_GLIBC = (2, 35)
# Decode steps between two times that buffers of former shapes are given back, as mlx-lm has it.
_STEPS_BETWEEN_CLEARING = 256


def unavailable() -> str | None:
    """Why MLX cannot run here, and the remedy; None where it is installed. Imports nothing of it."""
    if sys.platform == "linux" and (version := _glibc()) and version < _GLIBC:
        return f"MLX needs glibc 2.35 or newer, and this system has {version[0]}.{version[1]}"
    mlx = importlib.util.find_spec("mlx")
    missing = "mlx" if mlx is None else "mlx-lm" if importlib.util.find_spec("mlx_lm") is None else None
    if mlx is None or missing:
        return f"the package {missing} is not installed; {_REMEDY}"
    folders = [Path(folder) / "lib" for folder in mlx.submodule_search_locations or ()]
    if sys.platform == "linux" and not any((folder / "libmlx.so").exists() for folder in folders):
        return f"the package mlx is here without what computes for it, mlx-cpu or mlx-cuda; {_REMEDY}"
    return None


def open_shard(
    folder: Path,
    span: Span,
    *,
    ends: bool,
    slots: int,
    context: int,
    dtype: Dtype,
    threads: int | None,
    progress: Callable[[float], None],
    cache: Path | None = None,
) -> "MlxShard":
    """An `exo.shards.shard.Opener`. Raises `EngineFailed` naming what is missing or does not fit."""
    config = checkpoint.read(folder)
    if not 0 <= span.start < span.end <= config.layers:
        raise EngineFailed(f"{folder}: it has layers 0-{config.layers - 1}, and {span} are wanted")
    if reason := unavailable():
        raise EngineFailed(f"MLX cannot run here: {reason}")
    try:
        import mlx.core as mx

        library = _models(config.architecture)
    except ImportError as error:
        raise EngineFailed(f"MLX does not load on this machine: {error}; {_REMEDY}") from error
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    elif mx.metal.is_available():
        # Without it macOS moves weights out of the GPU's reach when memory is short, and back at each step.
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    with _failing(f"load layers {span} of {folder}"):
        model = _load(library, folder, config, span, ends=ends, dtype=dtype, progress=progress)
        shard = MlxShard(model, config, ends=ends, slots=slots, context=context)
        shard.warm_up()
    progress(1.0)
    return shard


class MlxShard:
    """An `exo.shards.shard.Shard`."""

    def __init__(
        self, model: Any, config: checkpoint.Config, *, ends: bool, slots: int, context: int
    ) -> None:
        import mlx.core as mx
        import numpy as np
        from mlx_lm.models.base import create_attention_mask
        from mlx_lm.models.cache import KVCache

        self.width = config.width
        self.bytes = sum(array.nbytes for array in _parameters(model).values())
        self._mx: Any = mx
        self._np: Any = np
        self._mask: Any = create_attention_mask
        self._cache: Any = KVCache
        self._layers = model.model.layers
        self._dtype = self._layers[0].input_layernorm.weight.dtype
        if ends:
            self._embedding = model.model.embed_tokens
            self._norm = model.model.norm
            self._head = self._embedding.as_linear if config.tied else model.lm_head
        self._vocabulary = config.vocabulary
        self._context = context
        self._caches = [self._empty() for _ in range(slots)]
        self._held = [0] * slots
        self._steps = 0

    def embed(self, tokens: Sequence[int]) -> "Hidden":
        with _failing("embed tokens"):
            return self._out(self._embed(tokens)[0])

    def forward(self, slot: int, position: int, hidden: "Hidden") -> "Hidden":
        with self._step(slot, position, len(hidden)) as caches:
            states = self._mx.array(hidden).astype(self._dtype)[None]
            return self._out(self._through(states, caches)[0])

    def logits(self, hidden: "Hidden") -> "Logits":
        with _failing("compute the output head"):
            states = self._mx.array(hidden[-1:]).astype(self._dtype)[None]
            return self._out(self._last(states))

    def read(self, slot: int, position: int, tokens: Sequence[int], *, wanted: bool) -> "Logits | None":
        with self._step(slot, position, len(tokens)) as caches:
            states = self._through(self._embed(tokens), caches)
            if wanted:
                return self._out(self._last(states))
            # Of the last layer its keys and values are all that is needed, and so all that is computed.
            self._mx.eval([(cache.keys, cache.values) for cache in caches])
            return None

    def free(self, slot: int) -> None:
        self._caches[slot] = self._empty()
        self._held[slot] = 0
        self._mx.clear_cache()

    def warm_up(self) -> None:
        """One step, so that a GPU compiles before it is waited for, and nothing of the modules is left to the
        thread that computes the next one."""
        self.forward(0, 0, self._np.zeros((1, self.width), self._np.float32))
        self.free(0)

    def _empty(self) -> list[Any]:
        return [self._cache() for _ in self._layers]

    @contextmanager
    def _step(self, slot: int, position: int, rows: int) -> Iterator[list[Any]]:
        held = self._held[slot]
        if not 0 <= position <= held:
            raise EngineFailed(f"a step at token {position} of a slot that holds {held}")
        if position + rows > self._context:
            raise EngineFailed(f"a step to token {position + rows} of a context of {self._context}")
        # Until it has succeeded: a step that fails in the middle has changed only some of the layers' caches.
        self._held[slot] = position
        caches = self._caches[slot]
        for cache in caches:
            cache.trim(cache.offset - position)
        with _failing(f"compute a step of {rows} tokens at {position}"):
            yield caches
        self._held[slot] = position + rows
        self._steps += 1
        if rows > 1 or self._steps % _STEPS_BETWEEN_CLEARING == 0:
            self._mx.clear_cache()

    def _embed(self, tokens: Sequence[int]) -> Any:
        for token in (min(tokens), max(tokens)):
            if not 0 <= token < self._vocabulary:
                raise EngineFailed(f"token {token} is not in the vocabulary of {self._vocabulary}")
        return self._embedding(self._mx.array([list(tokens)]))

    def _through(self, states: Any, caches: list[Any]) -> Any:
        mask = self._mask(states, caches[0])
        for layer, cache in zip(self._layers, caches, strict=True):
            states = layer(states, mask, cache)
        return states

    def _last(self, states: Any) -> Any:
        return self._head(self._norm(states[:, -1, :]))[0]

    def _out(self, array: Any) -> "NDArray[np.float32]":
        """Computes it. The result shares the array's memory, to which nobody else holds on."""
        array = array.astype(self._mx.float32)
        # Not left to the conversion, which cannot raise what goes wrong.
        self._mx.eval(array)
        result: NDArray[np.float32] = self._np.asarray(array)
        return result


def _load(
    library: ModuleType,
    folder: Path,
    config: checkpoint.Config,
    span: Span,
    *,
    ends: bool,
    dtype: Dtype,
    progress: Callable[[float], None],
) -> Any:
    """mlx-lm's model of the span's layers, its weights in memory."""
    import mlx.core as mx

    places = checkpoint.tensors(folder)
    # A sliding window in use was refused, so that all layers are of one type.
    arguments = {**config.raw, "num_hidden_layers": len(span), "layer_types": None}
    model: Any = library.Model(library.ModelArgs.from_dict(arguments))
    if not ends:
        for module, name in ((model.model, "embed_tokens"), (model.model, "norm"), (model, "lm_head")):
            module.pop(name, None)
    if config.quantization:
        _quantize(model, config.quantization, places, span)
    names = checkpoint.needed(places, span, ends=ends, tied=config.tied)
    _check(folder, model, {name: places[name] for name in names}, span)
    model.load_weights(_weights(mx, folder, {name: places[name].file for name in names}, span, dtype))
    parameters = _parameters(model).values()
    everything = sum(array.nbytes for array in parameters)
    done = 0
    # One by one: what is in the files and what is made of it are never both in memory as a whole.
    for array in parameters:
        mx.eval(array)
        done += array.nbytes
        progress(done / everything)
    return model


def _check(folder: Path, model: Any, places: Mapping[str, checkpoint.Place], span: Span) -> None:
    """Whether the files hold what the modules compute with, and nothing else that belongs to these layers."""
    wanted = {_renumbered(name, span.start): array.shape for name, array in _parameters(model).items()}
    if missing := sorted(wanted.keys() - places.keys()):
        raise EngineFailed(
            f"{folder}: no file here holds {missing[0]}, nor {len(missing) - 1} more tensors of the layers "
            f"{span}; download the files that do"
        )
    for name, place in places.items():
        file = folder / place.file
        if name not in wanted:
            raise EngineFailed(f"{file}: it holds {name}, which a model as config.json says does not have")
        if place.shape != wanted[name]:
            raise EngineFailed(f"{file}: {name} is of shape {place.shape}; by config.json {wanted[name]}")


def _weights(
    mx: Any, folder: Path, files: Mapping[str, str], span: Span, dtype: Dtype
) -> list[tuple[str, Any]]:
    """The tensors that are the keys of `files`, under the names that they have in a model of these layers
    alone. Not read yet, and not yet cast."""
    cpu = mx.default_device() == mx.Device(mx.cpu)
    kind = getattr(mx, "float32" if cpu and dtype == "auto" else dtype, None)
    stored = {file: mx.load(str(folder / file)) for file in set(files.values())}
    weights = []
    for name, file in files.items():
        array = stored[file][name]
        # Packed weights, and the scales of some quantizations, are integers, and stay what they are.
        if kind and mx.issubdtype(array.dtype, mx.floating):
            array = array.astype(kind)
        weights.append((_renumbered(name, -span.start), array))
    return weights


def _quantize(
    model: Any, settings: Mapping[str, Any], places: Mapping[str, checkpoint.Place], span: Span
) -> None:
    """Makes those modules quantized ones that are quantized in the files, as mlx-lm does when it loads.
    `settings` may have exceptions, by the name of a module in the whole model."""
    from mlx.nn.layers.quantized import quantize

    def how(path: str, module: Any) -> Any:
        name = _renumbered(path, span.start)
        if name in settings:
            return settings[name]
        return hasattr(module, "to_quantized") and f"{name}.scales" in places

    quantize(
        model,
        group_size=settings["group_size"],
        bits=settings["bits"],
        mode=settings.get("mode", "affine"),
        class_predicate=how,
    )


def _renumbered(name: str, by: int) -> str:
    """The name of a tensor or module, its layer counted from elsewhere."""
    parts = name.split(".")
    if parts[:2] != ["model", "layers"]:
        return name
    return ".".join([*parts[:2], str(int(parts[2]) + by), *parts[3:]])


def _parameters(model: Any) -> dict[str, Any]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters(), destination={}))


def _models(architecture: str) -> ModuleType:
    """mlx-lm's module of an architecture, without its package's `__init__`."""
    if "mlx_lm" not in sys.modules:
        spec = importlib.util.find_spec("mlx_lm")
        if spec is None:
            raise ImportError("the package mlx-lm is not installed")
        sys.modules["mlx_lm"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"mlx_lm.models.{architecture}")


def _glibc() -> tuple[int, ...] | None:
    """This system's version of it; None where it has another C library."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except ValueError:
        return None
    return tuple(map(int, version.split(".")[:2])) if name == "glibc" else None


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """MLX's own errors as ours; it raises these two kinds for all of its reasons."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise EngineFailed(f"MLX failed to {what}: {error}") from error
