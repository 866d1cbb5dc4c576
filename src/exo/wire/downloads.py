"""Downloads and the models that there could be, in the shapes of the first exo's API. Without I/O.

Its names are kept, and what they mean: `overall_speed` and `speed` are in bytes a second, `overall_eta` and
`eta` in seconds. It had one download per node, under the node's id; further ones are here under the node's
and the model's. `model` is new, and so are "failed" and `error`: there, a download that failed was in the log
only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from exo.cards import Progress
from exo.errors import EngineFailed
from exo.wire.json import Reader
from exo.wire.openai.request_types import ModelName, Sent

Status: TypeAlias = Literal["not_started", "in_progress", "complete", "failed"]


class DownloadBody(Sent, frozen=True):
    """POST /download: a short name, USER/REPO or USER/REPO:FILE.gguf."""

    model: ModelName


class DownloadAnswer(Struct, frozen=True):
    """POST /download and DELETE /models/{id}."""

    message: str
    status: Literal["success"] = "success"


class FileProgress(Struct, frozen=True, kw_only=True):
    repo_id: str
    repo_revision: str = "main"
    file_path: str
    downloaded: int
    downloaded_this_session: int
    total: int
    speed: int
    eta: float
    status: Status


class RepoProgress(Struct, frozen=True, kw_only=True):
    """A download: how many of its files and bytes are here, and how each file is doing. `model` is the id of
    what it makes, for which it can be asked again."""

    repo_id: str
    repo_revision: str = "main"
    completed_files: int
    total_files: int
    downloaded_bytes: int
    downloaded_bytes_this_session: int
    total_bytes: int
    overall_speed: int
    overall_eta: float
    file_progress: dict[str, FileProgress]
    status: Status
    error: str | UnsetType = UNSET
    model: str | UnsetType = UNSET


class PoolModel(Struct, frozen=True, kw_only=True):
    """A model that is here, is on its way, or could be. Sizes are in bytes, 0 where they are not known."""

    downloaded: bool
    download_percentage: float
    total_size: int
    total_downloaded: int


class InitialModel(PoolModel, frozen=True, kw_only=True):
    """The same with a name for people. There, the figures came later; here they are known at once."""

    name: str
    loading: bool = False


_reader = Reader(DownloadBody)


def decode_download(body: bytes) -> DownloadBody:
    """Raises `BadRequest` naming the key at fault."""
    return _reader.read(body)


def answer(message: str) -> bytes:
    return msgspec.json.encode(DownloadAnswer(message))


def file_progress(repo: str, file: str, done: int, come: int, total: int, seconds: float) -> FileProgress:
    """`done` of `total` bytes are here, `come` of them since it began, `seconds` ago."""
    speed = _speed(come, seconds)
    return FileProgress(
        repo_id=repo,
        file_path=file,
        downloaded=done,
        downloaded_this_session=come,
        total=total,
        speed=speed,
        eta=_left(total - done, speed),
        status="complete" if done and done == total else "in_progress" if done else "not_started",
    )


def repo_progress(
    files: Sequence[FileProgress], repo: str, seconds: float, failure: str = ""
) -> RepoProgress:
    done, total = sum(file.downloaded for file in files), sum(file.total for file in files)
    come = sum(file.downloaded_this_session for file in files)
    speed = _speed(come, seconds)
    return RepoProgress(
        repo_id=repo,
        completed_files=sum(file.status == "complete" for file in files),
        total_files=len(files),
        downloaded_bytes=done,
        downloaded_bytes_this_session=come,
        total_bytes=total,
        overall_speed=speed,
        overall_eta=_left(total - done, speed),
        file_progress={file.file_path: file for file in files},
        status="failed" if failure else "in_progress",
        error=failure or UNSET,
    )


def progress_answer(node: str, downloads: Mapping[str, RepoProgress]) -> bytes:
    """By the node's id the first one, by the node's and the model's each further one."""
    keys = [node, *(f"{node} {model}" for model in list(downloads)[1:])]
    shown = (msgspec.structs.replace(each, model=model) for model, each in downloads.items())
    return msgspec.json.encode(dict(zip(keys, shown, strict=False)))


def pool_event(model: str, state: PoolModel) -> bytes:
    return b"data: " + msgspec.json.encode({model: state}) + b"\n\n"


POOL_END = b"data: [DONE]\n\n"


def initial_answer(models: Iterable[tuple[str, InitialModel]]) -> bytes:
    return msgspec.json.encode(dict(models))


def _speed(come: int, seconds: float) -> int:
    return round(come / seconds) if seconds > 0 else 0


def _left(missing: int, speed: int) -> float:
    """Seconds; 0 where nothing comes, as infinity is no JSON."""
    return round(missing / speed, 3) if speed else 0.0


class _Line(Struct):
    status: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


def decode_line(line: bytes) -> Progress | None:
    """A line of what `/api/pull` says of itself; None for one that is about no file. Raises what it fails
    with, as an `EngineFailed`."""
    try:
        told = msgspec.json.decode(line, type=_Line)
    except (ValueError, RecursionError) as error:
        raise EngineFailed(f"the node's answer is not understood: {line[:200]!r}") from error
    if told.error:
        raise EngineFailed(told.error)
    file = told.status.removeprefix("pulling ")
    return Progress(file, told.completed, told.total) if file != told.status and told.total else None
