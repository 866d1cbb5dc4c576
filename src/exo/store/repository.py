"""A whole model from the hub: which of a repository's files it takes, and how they come here together.

Theory of operation. The files come side by side into a hidden folder beside the final one, `.NAME.partial`,
each checked by `hub.fetch`, all of them of one commit. When the last one is here and the model's headers can
be read, the folder takes its name: there is a whole model under it, or none. What a download that broke off
leaves is taken up by the next one. A lock on the hidden folder keeps two downloads of a model apart, in other
processes too. Where the model, or a shard's part of it, is here already, its files are linked into the hidden
folder first: those that are still right are not downloaded again.

The weights of a span of layers are those files of the index that hold its tensors. Without an index there is
one file, which a shard needs as a whole.
"""

import asyncio
import difflib
import fcntl
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path

import msgspec

from exo.cards import Format, Progress, Span
from exo.errors import BadRequest, EngineFailed, NotFound, NotReady
from exo.store import checkpoint, gguf, hub

log = logging.getLogger(__name__)

_CONFIG, _INDEX, _WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
# What goes with the weights, where the repository has it: tokenizers of several kinds, templates, defaults.
_BESIDE = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


class Source(msgspec.Struct, frozen=True):
    """A model on the hub: a repository ("user/name"), and the one file of it that is meant, if one is."""

    repository: str
    file: str = ""

    @property
    def id(self) -> str:
        """What the model is called here, and its folder."""
        name = self.file.rpartition("/")[2]
        return f"{self.repository}:{name}" if name else self.repository


def parse(name: str) -> Source:
    """Reads "USER/REPO", "USER/REPO:FILE.gguf" or "USER/REPO/FILE.gguf". Raises `BadRequest` for what is
    none of them."""
    head, colon, file = name.partition(":")
    user, _, rest = head.partition("/")
    repository, slash, path = rest.partition("/")
    if (colon and slash) or not repository or (file or path).endswith("/"):
        raise BadRequest(
            f"'{name[:200]}' names no model on the hub: give USER/REPO or USER/REPO:FILE.gguf", param="model"
        )
    file = file or path
    if colon or slash:
        hub.parse(f"{user}/{repository}/{file}")
    else:
        hub.check_repository(f"{user}/{repository}")
    if file and not file.endswith(".gguf"):
        raise BadRequest(
            f"'{file[:200]}' is no .gguf file; other models are taken as a whole, as USER/REPO", param="model"
        )
    return Source(f"{user}/{repository}", file)


async def fetch_model(
    source: Source,
    into: Path,
    *,
    formats: Sequence[Format] = ("gguf", "safetensors"),
    span: Span | None = None,
    ends: bool = True,
    parallel: int = 4,
    endpoint: str | None = None,
    token: str | None = None,
) -> AsyncGenerator[Progress, None]:
    """Downloads a model into the folder `into`, which is there when it is complete, and not before.

    With a `span` only the weights of those layers, and with `ends` of what surrounds all layers; other files
    of it that are in `into` stay there. Of a repository that has several formats the first of `formats` is
    taken. At most `parallel` files come at once. Each file is told of with what it has to come, and then
    with what has. Closing stops the download; what has come is kept for the next time.

    Raises as `hub.fetch` does; also `BadRequest` for a repository that holds no model, or several, and
    `EngineFailed` for one of an unknown architecture.
    """
    listing = await hub.listing(source.repository, endpoint=endpoint, token=token)
    layers = span is not None
    format: Format = "safetensors" if layers else _format(source, listing.files, formats)
    first = [_gguf(source, listing.files)] if format == "gguf" else [_CONFIG, _INDEX]
    first = [name for name in first if name in listing.files]

    def fetched(names: Sequence[str]) -> AsyncGenerator[Progress, None]:
        _check_room(hidden, names, listing.files)
        files = [
            hub.fetch(
                source.repository, name, hidden, endpoint=endpoint, token=token, revision=listing.commit
            )
            for name in names
        ]
        return _side_by_side(names, listing.files, files, parallel)

    hidden = into.with_name(f".{into.name}.partial")
    with hub.errors_of_the_disk(into.parent), _locked(hidden):
        here = _taken_up(into, hidden)
        async with aclosing(fetched(first)) as steps:
            async for step in steps:
                yield step
        rest: list[str] = []
        if format == "safetensors":
            with _thrown_away_unless_a_model(source, hidden):
                weights = _weights(hidden, listing.files, span, ends)
            if layers:
                weights += [name for name in sorted(_all_weights(listing.files)) if name in here]
            rest = [*(name for name in _BESIDE if name in listing.files), *dict.fromkeys(weights)]
            async with aclosing(fetched(rest)) as steps:
                async for step in steps:
                    yield step
        with _thrown_away_unless_a_model(source, hidden):
            await hub.in_thread(lambda: _check(hidden, format))
        _install(hidden, into, {name.rpartition("/")[2] for name in (*first, *rest)})


def remains(folder: Path) -> dict[str, Path]:
    """What downloads into a folder have left when they broke off, by the names that they would have."""
    left = folder.glob(".*.partial") if folder.is_dir() else ()
    return {path.name[1:].removesuffix(".partial"): path for path in left if path.is_dir()}


# Which files


def _format(source: Source, files: Mapping[str, int], formats: Sequence[Format]) -> Format:
    if source.file:
        return "gguf"
    there: dict[Format, bool] = {
        "gguf": any(name.endswith(".gguf") for name in files),
        "safetensors": _CONFIG in files and bool(_all_weights(files)),
    }
    for format in (*formats, *there):
        if there.get(format):
            return format
    names = ", ".join(sorted(files)[:10]) or "nothing"
    raise BadRequest(
        f"{source.repository} holds no model that an engine here loads, neither GGUF nor config.json with "
        f"safetensors; there is {names}",
        param="model",
    )


def _gguf(source: Source, files: Mapping[str, int]) -> str:
    there = sorted(name for name in files if name.endswith(".gguf"))
    if source.file in files:
        chosen = source.file
    elif source.file:
        names = difflib.get_close_matches(source.file, there, n=3, cutoff=0.4) or there[:20]
        instead = f"; there is {', '.join(names)}" if names else ", nor is any other .gguf file"
        raise NotFound(f"'{source.file}' is not in {source.repository}{instead}", param="model")
    elif len(there) == 1:
        chosen = there[0]
    else:
        raise BadRequest(
            f"{source.repository} holds {len(there)} GGUF files; name one, as in "
            f"{source.repository}:{_suggested(there)}; there is {', '.join(there[:40])}",
            param="model",
        )
    if _is_part(chosen):
        raise BadRequest(
            f"'{chosen}' is one part of a model, and a model is one file here; choose another file, or join "
            "the parts with llama.cpp's llama-gguf-split",
            param="model",
        )
    return chosen


def _is_part(name: str) -> bool:
    """Whether llama.cpp's tools named it as one of several: NAME-00001-of-00003.gguf."""
    pieces = name.removesuffix(".gguf").rsplit("-", 3)
    return len(pieces) == 4 and pieces[2] == "of" and pieces[1].isdecimal() and pieces[3].isdecimal()


def _suggested(names: Sequence[str]) -> str:
    """The one of the quantization that most take, if it is there."""
    usual = (name for name in names if "q4_k_m" in name.lower() and not _is_part(name))
    return next(usual, names[0])


def _all_weights(files: Iterable[str]) -> set[str]:
    return {name for name in files if name.endswith(".safetensors") and "/" not in name}


def _weights(folder: Path, files: Mapping[str, int], span: Span | None, ends: bool) -> list[str]:
    """Which weights, by what the folder's configuration and index say. Raises `EngineFailed` for a model that
    no engine here could load."""
    config = checkpoint.read(folder)
    by_index = checkpoint.index(folder)
    if by_index and span:
        wanted = checkpoint.files(by_index, span, ends=ends, tied=config.tied)
    else:
        wanted = sorted(set(by_index.values()))
    if not by_index:
        # Some makers put their own format beside it, as one more file.
        wanted = [_WEIGHTS] if _WEIGHTS in files else sorted(_all_weights(files))
    if missing := [name for name in wanted if name not in files]:
        raise EngineFailed(f"its index names {missing[0]}, which is not there")
    return wanted


# How they come


async def _side_by_side(
    names: Sequence[str],
    sizes: Mapping[str, int],
    files: Sequence[AsyncGenerator[Progress, None]],
    most: int,
) -> AsyncGenerator[Progress, None]:
    """Follows all of them, at most so many at once. The first that fails ends the others."""
    for name in names:
        yield Progress(name, 0, sizes[name])
    news: asyncio.Queue[Progress | asyncio.Task[None]] = asyncio.Queue()
    turns = asyncio.Semaphore(most)

    async def follow(steps: AsyncGenerator[Progress, None]) -> None:
        async with turns, aclosing(steps):
            async for step in steps:
                news.put_nowait(step)

    tasks = {asyncio.create_task(follow(steps)) for steps in files}
    for task in tasks:
        task.add_done_callback(news.put_nowait)
    ended = 0
    try:
        while ended < len(tasks):
            if isinstance(told := await news.get(), Progress):
                yield told
            else:
                told.result()
                ended += 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_room(hidden: Path, names: Sequence[str], sizes: Mapping[str, int]) -> None:
    """All files together have to fit, as each of them would alone."""
    ours = {name.rpartition("/")[2] for name in names}
    here = sum(
        path.stat().st_size
        for path in hidden.iterdir()
        if path.name in ours or any(path.name.startswith(f".{name}.") for name in ours)
    )
    hub.check_room(hidden, sum(sizes[name] for name in names) - here)


@contextmanager
def _locked(hidden: Path) -> Iterator[None]:
    """The hidden folder, for one download at a time. At the end it is gone if there is nothing in it."""
    hidden.mkdir(parents=True, exist_ok=True)
    handle = os.open(hidden, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotReady(
                f"{hidden.name[1:].removesuffix('.partial')} is being downloaded already"
            ) from None
        try:
            yield
        finally:
            if hidden.is_dir() and not any(hidden.iterdir()):
                hidden.rmdir()
            if not any(hidden.parent.iterdir()):
                hidden.parent.rmdir()
    finally:
        os.close(handle)


def _taken_up(into: Path, hidden: Path) -> set[str]:
    """Names of the files that are in the hidden folder, once those that are here already are, too."""
    for path in into.iterdir() if into.is_dir() else ():
        if path.is_file() and not (hidden / path.name).exists():
            try:
                os.link(path, hidden / path.name)
            except OSError as error:
                log.info("%s: no links on this file system (%s), it is downloaded again", path, error)
    return {path.name for path in hidden.iterdir()}


@contextmanager
def _thrown_away_unless_a_model(source: Source, hidden: Path) -> Iterator[None]:
    """What no engine could load is no use to a later download either."""
    try:
        yield
    except EngineFailed as error:
        shutil.rmtree(hidden)
        hidden.mkdir()
        reason = error.message.replace(f"{hidden}/", "").replace(f"{hidden}: ", "")
        raise EngineFailed(f"{source.id} cannot be used here: {reason}") from error


def _check(folder: Path, format: Format) -> None:
    if format == "safetensors":
        checkpoint.tensors(folder)
        return
    for path in folder.glob("*.gguf"):
        gguf.read(path, before="tokenizer.")


def _install(hidden: Path, into: Path, names: set[str]) -> None:
    """Gives the folder its name, with these files in it and nothing else."""
    for path in hidden.iterdir():
        if path.name not in names:
            path.unlink()
    old = into.with_name(f".{into.name}.old")
    if into.is_dir():
        into.rename(old)
    hidden.rename(into)
    handle = os.open(into.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if old.is_dir():
        shutil.rmtree(old)
