"""The models on this machine's disk, found by scanning.

`models/NAME.gguf`, `models/NAME/anything.gguf` (one file) and `models/NAME.script.json` are models called
NAME; the bundled model is one more folder of the same kind. Names are only ever compared with what a scan
found: a name from a request never becomes a path.
"""

import logging
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path

from exo.cards import ModelCard, Progress, Recipe
from exo.errors import BadRequest, EngineFailed, Forbidden, ModelNotFound
from exo.store import gguf

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"
_SCRIPT = ".script.json"
_SCRIPT_MEMORY = 1 << 20


class Catalogue(Mapping[str, tuple[ModelCard, Path]]):
    """Cards and files by model id, as of the last `scan`. Later folders win over earlier ones."""

    def __init__(self, *folders: Path, context: int | None = None, slots: int = 1) -> None:
        """Cards promise at most `context` tokens, and count KV caches for `slots` requests at once."""
        self._folders = folders
        self._context = context
        self._slots = slots
        self._models: dict[str, tuple[ModelCard, Path]] = {}
        self._seen: dict[tuple[Path, int, int], ModelCard | None] = {}
        self.scan()

    def __getitem__(self, model: str) -> tuple[ModelCard, Path]:
        return self._models[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple(card for card, _ in self._models.values())

    def scan(self) -> None:
        """Looks at the folders again. A file that is no model is logged once and left out."""
        found: dict[str, tuple[ModelCard, Path]] = {}
        for folder in self._folders:
            for name, path in _candidates(folder):
                if card := self._card(name, path):
                    found[name] = (card, path)
        self._models = found

    def delete(self, model: str) -> None:
        """Takes the model's file off the disk, and its folder if it had one. Raises `ModelNotFound`, and
        `Forbidden` for the bundled model."""
        if model not in self._models:
            raise ModelNotFound(f"model '{model}' is not here", param="model")
        _, path = self._models[model]
        if BUNDLED in path.parents:
            raise Forbidden(f"model '{model}' came with this program and cannot be deleted", param="model")
        path.unlink()
        if path.parent not in self._folders:
            shutil.rmtree(path.parent)
        self.scan()

    def create(self, model: str, recipe: Recipe) -> None:
        raise BadRequest(
            "models cannot be made on this node; send the system message and the sampling with each request",
            param="model",
        )

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        raise BadRequest("this node downloads nothing; put .gguf files into its models folder", param="model")
        yield  # which makes this the generator that others are

    def _card(self, name: str, path: Path) -> ModelCard | None:
        stat = path.stat()
        version = (path, stat.st_mtime_ns, stat.st_size)
        if version not in self._seen:
            try:
                self._seen[version] = read_card(name, path, self._context, self._slots)
            except EngineFailed as error:
                log.warning("left out a file that is no model: %s", error.message)
                self._seen[version] = None
        return self._seen[version]


def read_card(name: str, path: Path, most: int | None = None, slots: int = 1) -> ModelCard:
    """Makes the card of one file. Raises `EngineFailed` where it is not a model."""
    stat = path.stat()
    if path.name.endswith(_SCRIPT):
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


def _candidates(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files that may be models, in a stable order."""
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.endswith(_SCRIPT):
            yield entry.name.removesuffix(_SCRIPT), entry
        elif entry.suffix == ".gguf":
            yield entry.stem, entry
        elif entry.is_dir():
            files = sorted(entry.glob("*.gguf"))
            if len(files) == 1:
                yield entry.name, files[0]
            elif files:
                log.warning("left out %s: it holds %d .gguf files, and one is a model", entry, len(files))
