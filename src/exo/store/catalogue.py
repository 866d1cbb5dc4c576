"""The models on this machine's disk, found by scanning.

In a models folder, `NAME.gguf` and `NAME.script.json` are models called NAME, and so is a folder NAME with
one GGUF file, or with config.json and safetensors. A folder USER with nothing of the kind holds folders of
models called USER/REPO, which is how downloads are named; the bundled model is one more folder. Names are
only ever compared with what a scan found: a name from a request never becomes a path, but for that of a
download, which `hub` has checked.

A folder that lacks files which its index names holds the layers of a shard. It is no model that could be
loaded here alone: see `Catalogue.partial`.
"""

import logging
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

import msgspec

from exo.cards import Format, ModelCard, Progress, Recipe, Span
from exo.errors import BadRequest, EngineFailed, Forbidden, ModelNotFound, NotReady
from exo.store import checkpoint, families, repository, templates
from exo.store.cards import SCRIPT, read_card
from exo.store.downloads import Downloads

__all__ = ["BUNDLED", "Catalogue", "read_card"]

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"
FORMATS: tuple[Format, ...] = ("gguf", "safetensors", "script")


class Catalogue(Mapping[str, tuple[ModelCard, Path]]):
    """Cards and files by model id, as of the last `scan`. Later folders win over earlier ones."""

    def __init__(
        self,
        *folders: Path,
        context: int | None = None,
        slots: int = 1,
        formats: Sequence[Format] = FORMATS,
        width: int | None = 4,
        parallel: int = 4,
        hub: str | None = None,
        token: str | None = None,
    ) -> None:
        """Cards promise at most `context` tokens, and count KV caches for `slots` requests at once. A model
        that is here, or on the hub, in several formats is offered in the first of `formats`; `width` is that
        of `read_card`. At most `parallel` files of a download come at once, from the hub at `hub` with
        `token`; None leaves either to the hub's library. They come into the last folder."""
        self._folders = folders
        self._context = context
        self._slots = slots
        self._formats = formats
        self._width = width
        self._fetch = partial(
            repository.fetch_model, formats=formats, parallel=parallel, endpoint=hub, token=token
        )
        self._models: dict[str, tuple[ModelCard, Path]] = {}
        self._partial: dict[str, tuple[ModelCard | None, Path]] = {}
        self._seen: dict[tuple[tuple[Path, int, int], ...], ModelCard | None] = {}
        self._said: set[str] = set()
        self.downloads = Downloads()
        self.offered: Callable[[], Mapping[str, ModelCard]] = self._as_they_are
        """What is said of the models on this disk, by id; by itself, what their files give."""
        self.scan()

    def __getitem__(self, model: str) -> tuple[ModelCard, Path]:
        card = self.offered()[model]
        _, path = self._models[model] if model in self._models else self._partial[model]
        return card, path

    def __iter__(self) -> Iterator[str]:
        return iter(self.offered())

    def __len__(self) -> int:
        return len(self.offered())

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple(self.offered().values())

    @property
    def on_disk(self) -> Mapping[str, tuple[ModelCard, Path]]:
        """The same with the cards as the files give them, whatever is `offered`."""
        return self._models

    @property
    def partial(self) -> Mapping[str, tuple[ModelCard | None, Path]]:
        """Models of which only some files are here, by id, and the folders of these. There is a card where
        they say how large the whole model is."""
        return self._partial

    @property
    def unfinished(self) -> Mapping[str, Path]:
        """Folders of what is here of models that are not whole: a shard's part, or what a download that
        broke off has left."""
        return {**self._broken_off(), **{id: path for id, (_, path) in self._partial.items()}}

    def scan(self) -> None:
        """Looks at the folders again. What is no model is logged once and left out."""
        found: dict[str, tuple[ModelCard, Path]] = {}
        partial: dict[str, tuple[ModelCard | None, Path]] = {}
        for name, paths in self._candidates():
            try:
                path = self._chosen(paths)
                if path.is_dir() and not checkpoint.whole(path):
                    partial[name] = (self._card_of_part(name, path), path)
                elif card := self._card(name, path):
                    found[name] = (card, path)
            except EngineFailed as error:
                self._complain(error.message)
        self._models, self._partial = found, partial

    def delete(self, model: str) -> None:
        """Takes the model's files off the disk, and its folder if it had one; also what is here of a model
        that is not whole. Raises `ModelNotFound`, `Forbidden` for the bundled model, and `NotReady` for a
        disk that does not take it."""
        from exo.store.hub import errors_of_the_disk

        if model in self.downloads and not self.downloads[model].task.done():
            raise NotReady(f"model '{model}' is being downloaded; stop that first", param="model")
        path = self._models[model][1] if model in self._models else self.unfinished.get(model)
        if path is None:
            raise ModelNotFound(f"model '{model}' is not here", param="model")
        if BUNDLED in path.parents:
            raise Forbidden(f"model '{model}' came with this program and cannot be deleted", param="model")
        folder = path if path.is_dir() else path.parent
        with errors_of_the_disk(folder):
            if folder in self._folders:
                path.unlink()
            elif folder.is_symlink():
                folder.unlink()  # what it leads to is not this folder's
            else:
                shutil.rmtree(folder)
                user = folder.parent
                if user not in self._folders and not user.is_symlink() and not any(user.iterdir()):
                    user.rmdir()
        self.scan()

    def create(self, model: str, recipe: Recipe) -> None:
        raise BadRequest(
            "models cannot be made on this node; send the system message and the sampling with each request",
            param="model",
        )

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        """Downloads a model by a short name that `families` knows, or as `repository.parse` reads it. Joins
        a download of it that is under way. Raises as `repository.fetch_model` does."""
        async with aclosing(self.downloads.follow(*self._wanted(name))) as steps:
            async for step in steps:
                yield step

    async def start_pull(self, name: str) -> str:
        """Does so in the background, and returns the model's id when it has begun. Raises as `pull` does for
        what fails before."""
        model, source, begin = self._wanted(name)
        await self.downloads.start(model, source, begin)
        return model

    def on_the_hub(self, model: str) -> bool:
        """Whether `pull` would know where to get a model of that id. Asks nobody."""
        try:
            self._wanted(model)
        except BadRequest:
            return False
        return True

    async def pull_part(
        self, model: str, span: Span, *, ends: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Downloads the files that have these layers, and with `ends` what is around all layers, beside those
        that are there. Raises as `pull` does."""
        into, source = self._place_of(model)
        async with aclosing(self._fetch(source, into, span=span, ends=ends)) as steps:
            async for step in steps:
                yield step
        self.scan()

    def remedy(self, model: str) -> str:
        """What whoever asks for a model that is not here could do; "" where nothing is known of it."""
        known = families.find(model)
        return f"; `exo pull {model}` downloads it" if known and self._folders else ""

    def _wanted(self, name: str) -> tuple[str, str, Callable[[], AsyncGenerator[Progress, None]]]:
        """A download's id, what it takes, and how it begins."""
        into, source = self._place_of(name)
        return str(into.relative_to(self._folders[-1])), source.id, lambda: self._fetched(source, into)

    def _place_of(self, name: str) -> tuple[Path, repository.Source]:
        """Where a download is kept, and what it takes."""
        if not self._folders or self._folders[-1] == BUNDLED:
            raise BadRequest("this node keeps no models, so it downloads none", param="model")
        into = self._folders[-1]
        if known := families.find(name):
            format = next((each for each in self._formats if each in known.sources), None)
            address = known.sources[format] if format else next(iter(known.sources.values()))
            return into / name, repository.parse(address)
        source = repository.parse(name)
        return into / source.id, source

    async def _fetched(self, source: repository.Source, into: Path) -> AsyncGenerator[Progress, None]:
        async with aclosing(self._fetch(source, into)) as steps:
            async for step in steps:
                yield step
        self.scan()

    def _broken_off(self) -> dict[str, Path]:
        """What downloads that broke off have left, by the model's id."""
        left: dict[str, Path] = {}
        for folder in self._folders[-1:]:
            for inside in (folder, *(each for each in _visible(folder) if each.is_dir())):
                prefix = "" if inside == folder else f"{inside.name}/"
                left |= {prefix + name: path for name, path in repository.remains(inside).items()}
        return left

    def _candidates(self) -> Iterator[tuple[str, Mapping[Format, Path]]]:
        """What may be models, in a stable order: names, and what they would be read from in each format."""
        for folder in self._folders:
            for entry in _visible(folder):
                if entry.name.endswith(SCRIPT):
                    yield entry.name.removesuffix(SCRIPT), {"script": entry}
                elif entry.is_dir():
                    if paths := self._in_folder(entry):
                        yield entry.name, paths
                        continue
                    for each in _visible(entry):
                        if each.is_dir() and (paths := self._in_folder(each)):
                            yield f"{entry.name}/{each.name}", paths
                elif entry.suffix == ".gguf":
                    yield entry.stem, {"gguf": entry}

    def _in_folder(self, folder: Path) -> dict[Format, Path]:
        paths: dict[Format, Path] = {}
        files = [path for path in _visible(folder) if path.suffix == ".gguf" and path.is_file()]
        if len(files) == 1:
            paths["gguf"] = files[0]
        elif files:
            self._complain(f"{folder}: it holds {len(files)} .gguf files, and one is a model")
        # Weights, or at least the index of them.
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors*")):
            paths["safetensors"] = folder
        return paths

    def _chosen(self, paths: Mapping[Format, Path]) -> Path:
        ours = (paths[format] for format in self._formats if format in paths)
        return next(ours, None) or next(iter(paths.values()))

    def _card(self, name: str, path: Path) -> ModelCard | None:
        version = _version(path)
        if version not in self._seen:
            self._seen[version] = None
            card = read_card(name, path, self._context, self._slots, width=self._width)
            if known := families.built_in(name):
                card = msgspec.structs.replace(card, capabilities=known.capabilities)
            elif card.capabilities == ("completion",):
                shown = templates.shown_beside(name, path)
                card = msgspec.structs.replace(card, capabilities=("completion", *shown))
            self._seen[version] = card
        return self._seen[version]

    def _card_of_part(self, name: str, path: Path) -> ModelCard | None:
        try:
            return self._card(name, path)
        except EngineFailed as error:
            log.debug("no card of what is only in part here: %s", error.message)
            return None

    def _as_they_are(self) -> Mapping[str, ModelCard]:
        return {id: card for id, (card, _) in self._models.items()}

    def _complain(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning("left out what is no model: %s", message)


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, in a stable order, but for what is on its way here."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _version(path: Path) -> tuple[tuple[Path, int, int], ...]:
    """What differs once the model's files do."""
    files = [path]
    if path.is_dir():
        files = [path / "config.json", *sorted(path.glob("*.safetensors*"))]
    stats = [(file, file.stat()) for file in files]
    return tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats)
