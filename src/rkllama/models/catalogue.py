"""The models of this board: `~/RKLLAMA/models/<Name>/{one .rkllm file, Modelfile}`, found by scanning.

A folder whose Modelfile says FROM another model's name is a model of that one's file. What only a load can
tell, the context that a file was made for, is remembered while this process lives. Names are compared with
what a scan found, and never become a path; where a new folder is made, its name is checked first.
"""

import logging
import re
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import msgspec

from exo.cards import ModelCard, Progress, Recipe
from exo.chat import filled
from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotFound
from rkllama.models import modelfile
from rkllama.models.modelfile import Modelfile

log = logging.getLogger(__name__)

# Tokens of context for a model whose owner sets none; less where the file was made for less.
DEFAULT_CONTEXT = 4096
_MODELFILE = "Modelfile"
_SUFFIX = ".rkllm"
# What a chat template, JSON schemas and sampling by request need, where it lies beside the weights.
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
# What a model takes beyond its weights: the runtime's buffers, a KV cache of the default context, the
# process. The vendor's figures for 1.5B and 3.8B parameters (release 1.3.0) are within it.
_MEMORY_FACTOR, _MEMORY_FIXED = 1.125, 96 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]{0,127}")
# As converters put it into file names: "-rk3588-w8a8-opt-0", "_w4a16_g128".
_DTYPE = re.compile(r"(?<![a-z0-9])(w\d+a\d+(?:[_-]g\d+)?)(?![a-z0-9])", re.IGNORECASE)


class Entry(msgspec.Struct, frozen=True):
    """A model on disk: its card, its own folder, the weights, the folder of what goes with them (tokenizer,
    template), and its Modelfile."""

    card: ModelCard
    folder: Path
    file: Path
    beside: Path
    modelfile: Modelfile


class Models(Mapping[str, tuple[ModelCard, Path]]):
    """Cards and files by name, as of the last `scan`."""

    def __init__(self, folder: Path, *, hub: str | None = None, token: str | None = None) -> None:
        """`hub` is the address that models are downloaded from, `token` what it wants for gated ones."""
        self.folder = folder
        self._hub, self._token = hub, token
        self._entries: dict[str, Entry] = {}
        self._limits: dict[tuple[Path, int], int] = {}
        self._complained: set[str] = set()
        self.scan()

    def __getitem__(self, model: str) -> tuple[ModelCard, Path]:
        entry = self._entries[model]
        return entry.card, entry.file

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple(entry.card for entry in self._entries.values())

    def entry(self, model: str) -> Entry:
        """Raises `ModelNotFound` for one that the last scan did not find."""
        if model not in self._entries:
            raise ModelNotFound(f"model '{model}' is not in {self.folder}", param="model")
        return self._entries[model]

    def scan(self) -> None:
        """Looks at the folder again. What cannot be a model is logged once, with the reason, and left out."""
        found: dict[str, Entry] = {}
        borrowing: dict[str, tuple[Path, Modelfile]] = {}
        folders = (
            sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []
        )
        for folder in folders:
            if folder.name.startswith("."):
                continue
            try:
                recipe = _recipe(folder)
                if file := _weights(folder, recipe):
                    found[folder.name] = self._entry(folder, file, folder, recipe)
                elif recipe.source:
                    borrowing[folder.name] = folder, recipe
            except EngineFailed as error:
                self._complain(error.message)
        for name, (folder, recipe) in borrowing.items():
            if base := found.get(recipe.source):
                found[name] = self._entry(folder, base.file, base.beside, _over(base.modelfile, recipe))
            else:
                self._complain(
                    f"{folder / _MODELFILE}: FROM={recipe.source} is neither a file in its folder nor a model"
                )
        self._entries = found

    def learn(self, model: str, limit: int) -> None:
        """The model's file was made for `limit` tokens of context: its card says so from now on."""
        entry = self.entry(model)
        self._limits[_version(entry.file)] = limit
        self.scan()

    def delete(self, model: str) -> None:
        """Takes the model's folder off the disk. Raises `ModelNotFound`, `BadRequest` while another model is
        made of its file, and `NotReady` for a disk that does not take it."""
        from exo.store.hub import errors_of_the_disk

        entry = self.entry(model)
        borrowers = [
            name for name, each in self._entries.items() if each.beside == entry.folder and name != model
        ]
        if borrowers:
            raise BadRequest(
                f"model '{model}' is what {', '.join(borrowers)} is made of; delete that first", param="model"
            )
        with errors_of_the_disk(self.folder):
            if entry.folder.is_symlink():
                entry.folder.unlink()  # what it leads to is not this folder's
            else:
                shutil.rmtree(entry.folder)
        self.scan()

    def create(self, model: str, recipe: Recipe) -> None:
        """Makes a model of another one's file: a folder with a Modelfile, or nothing. Raises `ModelNotFound`,
        `BadRequest` for a name that is taken or none, and `NotReady` for a disk that does not take it."""
        from exo.store.hub import errors_of_the_disk

        _check_name(model)
        base = self.entry(recipe.base)
        if model in self._entries or (self.folder / model).exists():
            raise BadRequest(f"there is a model '{model}' already; delete it first", param="model")
        source = recipe.base if base.folder == base.beside else base.beside.name
        own = msgspec.structs.replace(
            base.modelfile,
            source=source,
            system=recipe.system or base.modelfile.system,
            sampling=filled(recipe.sampling, base.modelfile.sampling),
            thinking=base.modelfile.thinking if recipe.thinking is None else recipe.thinking,
            context=recipe.context or base.modelfile.context,
        )
        folder = self.folder / model
        with errors_of_the_disk(self.folder):
            folder.mkdir()
            try:
                modelfile.write(folder / _MODELFILE, own)
            except OSError:
                folder.rmdir()
                raise
        self.scan()

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        """Downloads "user/repository/file.rkllm" into a folder named after the file."""
        from exo.store import hub

        repository, file = hub.parse(name)
        own = file.rpartition("/")[2]
        if not own.endswith(_SUFFIX):
            raise BadRequest(f"'{name[:200]}' is no {_SUFFIX} file", param="model")
        _check_name(own)
        folder = self.folder / own.removesuffix(_SUFFIX)
        if (folder / _MODELFILE).exists():  # which is written when everything has come
            raise BadRequest(f"there is a model '{folder.name}' already; delete it first", param="model")
        with hub.errors_of_the_disk(self.folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        fetch = partial(hub.fetch, repository, into=folder, endpoint=self._hub, token=self._token)
        try:
            async with aclosing(fetch(file)) as steps:
                async for progress in steps:
                    yield progress
            for beside in _BESIDE:
                with suppress(NotFound):  # many repositories hold the weights alone
                    async with aclosing(fetch(beside)) as steps:
                        async for progress in steps:
                            yield progress
            with hub.errors_of_the_disk(folder):
                modelfile.write(folder / _MODELFILE, Modelfile(source=own, hub=repository))
        finally:
            # What has come of a download that broke off is kept there for the next time.
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self.scan()

    def _entry(self, folder: Path, file: Path, beside: Path, own: Modelfile) -> Entry:
        stat = file.stat()
        limit = self._limits.get(_version(file))
        wanted = own.context or DEFAULT_CONTEXT
        card = ModelCard(
            id=folder.name,
            format="rkllm",
            context=wanted if limit is None or own.context else min(wanted, limit),
            bytes=stat.st_size,
            memory=int(stat.st_size * _MEMORY_FACTOR) + _MEMORY_FIXED,
            created=int(stat.st_mtime),
            quantization=match[1].lower() if (match := _DTYPE.search(file.name)) else "",
            sampling=own.sampling,
            system=own.system,
            thinking=own.thinking,
        )
        return Entry(card, folder, file, beside, own)

    def _complain(self, message: str) -> None:
        if message not in self._complained:
            self._complained.add(message)
            log.warning("left out a folder that is no model: %s", message)


def _recipe(folder: Path) -> Modelfile:
    path = folder / _MODELFILE
    return modelfile.read(path) if path.is_file() else Modelfile()


def _weights(folder: Path, recipe: Modelfile) -> Path | None:
    """The weights in a folder; None where there are none. Raises `EngineFailed` where there are several
    files, and none is chosen."""
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    chosen = [file for file in files if file.name == recipe.source]
    if chosen or len(files) == 1:
        return (chosen or files)[0]
    if files:
        names = ", ".join(file.name for file in files)
        raise EngineFailed(f"{folder} holds {names}: name one in its Modelfile with FROM")
    return None


def _version(file: Path) -> tuple[Path, int]:
    return file, file.stat().st_mtime_ns


def _over(base: Modelfile, own: Modelfile) -> Modelfile:
    """`own`, and what it leaves open from `base`."""
    named = {field: value for field, value in msgspec.structs.asdict(own).items() if value not in (None, "")}
    return msgspec.structs.replace(base, **{**named, "sampling": filled(own.sampling, base.sampling)})


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"'{name[:80]}' cannot name a model: use letters, digits, dots, dashes and underscores",
            param="model",
        )
