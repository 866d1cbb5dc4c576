"""The owner's models on the disk: which could be loaded, what downloads have left, and what is no model."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from exo.cards import ModelCard
from exo.doctor.evidence import Leftover, ModelFile, Shelf, Unread
from exo.doctor.gather.gguf_size import layout
from exo.errors import ExoError
from exo.store import checkpoint
from exo.store.cards import SCRIPT, read_card
from exo.store.catalogue import BUNDLED, Catalogue

# Of the seconds that the whole probe has, those after which no further file is begun.
_SECONDS = 1.5


def shelf(folders: tuple[Path, ...], context: int, slots: int) -> Shelf:
    """What is in the folders of models, the bundled one left out. Raises OSError."""
    began = time.monotonic()
    ours = tuple(folder for folder in folders if folder != BUNDLED)
    catalogue = Catalogue(*ours, context=context, slots=slots)
    models: list[ModelFile] = []
    unseen = 0
    for id, (card, path) in sorted(catalogue.on_disk.items()):
        if time.monotonic() - began > _SECONDS:
            unseen += 1
        else:
            models.append(_model(id, card, path))
    models += [_part(id, path) for id, (_, path) in sorted(catalogue.partial.items())]
    known = {path for _, path in catalogue.on_disk.values()} | {
        path for _, path in catalogue.partial.values()
    }
    strangers = tuple(_strangers(ours, known, context))
    return Shelf(
        models=tuple(models),
        leftovers=tuple(
            _leftover(id, path) for id, path in sorted(catalogue.unfinished.items()) if path not in known
        ),
        strangers=strangers,
        twice=tuple(_twice(ours)),
        unseen=unseen,
    )


def _model(id: str, card: ModelCard, path: Path) -> ModelFile:
    found = ModelFile(
        id=id,
        path=str(path),
        bytes=card.bytes,
        format=card.format,
        memory=card.memory,
        context=card.context,
        quantization=card.quantization,
        embeds="embedding" in card.capabilities,
    )
    try:
        if card.format == "gguf":
            laid = layout(path)
            short = max(0, laid.bytes - path.stat().st_size)
            return msgspec.structs.replace(found, template=laid.template, missing=short)
        if card.format == "safetensors":
            return _folder(found, path)
    except (ExoError, OSError) as error:
        why = error.message if isinstance(error, ExoError) else str(error)
        return msgspec.structs.replace(found, problem=why)
    return found


def _folder(found: ModelFile, path: Path) -> ModelFile:
    from exo.generation.folder import texts

    return msgspec.structs.replace(
        found, template=bool(texts(path).template), tokenizer=(path / "tokenizer.json").is_file()
    )


def _part(id: str, path: Path) -> ModelFile:
    """A model of which files are missing that its index names."""
    names = sorted(set(checkpoint.index(path).values()))
    lacking = tuple(name for name in names if not (path / name).is_file())
    here = sum((path / name).stat().st_size for name in names if name not in lacking)
    return ModelFile(id=id, path=str(path), bytes=here, format="safetensors", lacking=lacking)


def _leftover(id: str, path: Path) -> Leftover:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    handle = os.open(path, os.O_RDONLY)
    try:
        # Whoever downloads into it holds it.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Leftover(id, size, under_way=True)
    finally:
        os.close(handle)
    return Leftover(id, size, under_way=False)


def _strangers(folders: tuple[Path, ...], known: set[Path], context: int) -> Iterator[Unread]:
    """What lies where models are looked for and is none, and why."""
    for folder in folders:
        for entry in _visible(folder):
            if not _has(entry, known):
                yield from _stranger(entry, known, context)


def _stranger(entry: Path, known: set[Path], context: int) -> Iterator[Unread]:
    if entry.is_dir() and not _looks_like_one(entry):
        inside = [each for each in _visible(entry) if each.is_dir() and not _has(each, known)]
        if not inside:
            yield Unread(str(entry), "no .gguf file is in it, nor config.json with safetensors")
        for each in inside:
            yield from _why_not(each, context)
        return
    yield from _why_not(entry, context)


def _why_not(entry: Path, context: int) -> Iterator[Unread]:
    if entry.is_dir():
        files = [each for each in _visible(entry) if each.suffix == ".gguf"]
        if len(files) > 1:
            yield Unread(str(entry), f"it holds {len(files)} .gguf files, and one is a model")
            return
        path = files[0] if files else entry
        if not files and not _looks_like_one(entry):
            yield Unread(str(entry), "no .gguf file is in it, nor config.json with safetensors")
            return
    elif entry.suffix == ".gguf" or entry.name.endswith(SCRIPT):
        path = entry
    else:
        yield Unread(str(entry), "it is no .gguf file")
        return
    try:
        read_card(entry.name, path, context)
    except ExoError as error:
        yield Unread(str(path), error.message.removeprefix(f"{path}: "))


def _looks_like_one(folder: Path) -> bool:
    names = {each.name for each in _visible(folder)}
    return "config.json" in names or any(name.endswith((".gguf", ".safetensors")) for name in names)


def _has(entry: Path, known: set[Path]) -> bool:
    """Whether a model is this entry, or in it."""
    return any(entry == path or entry in path.parents for path in known)


def _twice(folders: tuple[Path, ...]) -> Iterator[str]:
    """Names that a file and a folder have, of which one is seen."""
    for folder in folders:
        names = Counter(
            entry.name.removesuffix(SCRIPT).removesuffix(".gguf")
            for entry in _visible(folder)
            if entry.is_dir() or entry.name.endswith((SCRIPT, ".gguf"))
        )
        yield from (name for name, count in names.items() if count > 1)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
