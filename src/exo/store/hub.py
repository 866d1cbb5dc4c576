"""Downloads from the Hugging Face hub, or a mirror of it.

Theory of operation. The hub's library says what a file is (its size, its checksum, the commit that it is of)
and how to ask for it; the bytes are read here, because the library's own download starts anew when it was
broken off, and runs in a thread that nobody can stop. They go to a hidden file beside the final one, which is
named after the checksum: whoever comes later goes on from where it ends, and only if the file is still the
same one. When all of it is there and the checksum is right, it is renamed. A lock on the hidden file keeps
two downloads of the same file apart, in other processes too.

The library reads HF_ENDPOINT, HF_HOME (where `hf auth login` keeps its token) and HF_HUB_OFFLINE itself. Its
cache is not used. Large files are fetched over plain HTTP, for which the library knows a limit of 50 GB: the
hub's chunked transfer ("xet") keeps a cache of its own, and mirrors do not have it. What the hub itself
answers was not verified; the tests' mirror follows what the library asks and reads.
"""

import asyncio
import difflib
import errno
import os
import re
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from exo.cards import Progress
from exo.errors import BadRequest, EngineFailed, ExoError, Forbidden, NotFound, NotReady
from exo.store.partial import Partial, size_if_whole

T = TypeVar("T")

_CHUNK = 1 << 20
# Failures in a row, none of which brought a byte, until a download is given up.
_ATTEMPTS = 5
_PAUSE = 1.0  # seconds after the first of them; each further one is twice as long
_US = {"user-agent": "exo-rkllama"}
_SEGMENT = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,200}")
_REPOSITORY = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)


def parse(name: str) -> tuple[str, str]:
    """Repository and file of "user/repository/file". Raises `BadRequest` for anything else."""
    user, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    _check(f"{user}/{repository}", file)
    return f"{user}/{repository}", file


async def fetch(
    repository: str,
    file: str,
    into: Path,
    *,
    endpoint: str | None,
    token: str | None,
    revision: str | None = None,
) -> AsyncGenerator[Progress, None]:
    """Downloads `file` of `repository` ("user/name") into the folder `into`, under the last part of its name.

    `revision` is the commit or branch that it is of, None for the main one.

    The first step is what is there already, the last one comes when the file is in its place; a file that is
    there and is the right one is not downloaded again. `endpoint` is the hub's address and `token` its key;
    None leaves either to the library. Closing stops the download; what has come is kept for the next time.

    Raises `BadRequest` for names that cannot be, `NotFound` for a repository or a file that is not there,
    `Forbidden` where the hub wants a token or other rights, `NotReady` without a network, without room on the
    disk, or while the same file is being downloaded, and `EngineFailed` for a hub that fails or whose file
    is not what it should be.
    """
    _check(repository, file)
    whole = into / file.rpartition("/")[2]
    # Left alone, this ends by itself: the library gives up after some seconds.
    source = await asyncio.to_thread(_find, repository, file, endpoint, token, revision)
    with errors_of_the_disk(into):
        await in_thread(partial(into.mkdir, parents=True, exist_ok=True))
        here = await in_thread(partial(size_if_whole, whole, source.etag, source.size))
        if here is not None:
            yield Progress(file, here, here)
            return
        with Partial(whole, source.etag, source.size) as ours:
            await in_thread(ours.take_up)
            check_room(into, (source.size or 0) - ours.done)
            yield Progress(file, ours.done, source.size or 0)
            async with aclosing(_rest(source, ours)) as steps:
                async for _ in steps:
                    yield Progress(file, ours.done, source.size or 0)
            await in_thread(ours.install)
        yield Progress(file, ours.done, ours.done)


class Listing(msgspec.Struct, frozen=True):
    """What a repository has as of `commit`: the size in bytes of each file by its name, 0 where unknown."""

    commit: str
    files: Mapping[str, int]


async def listing(repository: str, *, endpoint: str | None, token: str | None) -> Listing:
    """Asks what there is. Raises as `fetch` does."""
    check_repository(repository)
    return await asyncio.to_thread(_list, repository, endpoint, token)


def check_repository(repository: str) -> None:
    """Raises `BadRequest` for what is no name of a repository."""
    if not _REPOSITORY.fullmatch(repository):
        raise BadRequest(f"'{repository[:200]}' names no repository: give user/repository", param="model")


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file on the hub. `url` is of this very version; `etag` is its checksum, `size` in bytes."""

    repository: str
    file: str
    url: str
    headers: Mapping[str, str]
    etag: str
    size: int | None


def _list(repository: str, endpoint: str | None, token: str | None) -> Listing:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    constants.HF_HUB_DISABLE_TELEMETRY = True
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    no_hub = f"{endpoint} is no hub: it names neither version nor files of {repository}"
    with _errors_of_the_hub(repository, "", endpoint):
        try:
            found = HfApi(endpoint, token=token or None, headers=_US).model_info(
                repository, files_metadata=True
            )
        except HFValidationError:
            raise
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # what came is not what the library expects
            raise EngineFailed(no_hub) from error
    if not found.sha or found.siblings is None:
        raise EngineFailed(no_hub)
    return Listing(found.sha, {each.rfilename: each.size or 0 for each in found.siblings})


def _find(
    repository: str, file: str, endpoint: str | None, token: str | None, revision: str | None
) -> _Source:
    """Asks the hub for it; blocks, as the library does, and already its import takes half a second."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # it is documented there

    # Else the library looks for what runs it, and tells the hub.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    with _errors_of_the_hub(repository, file, endpoint):
        headers = build_hf_headers(token=token or None, headers=_US)
        url = hf_hub_url(repository, file, revision=revision, endpoint=endpoint)
        try:
            found = get_hf_file_metadata(url, token=token or None, headers=headers)
        except RemoteEntryNotFoundError as error:
            near = _near(repository, file, endpoint, token)
            raise NotFound(f"'{file}' is not in {repository} on {endpoint}{near}", param="model") from error
        if not (found.etag and found.commit_hash):
            raise EngineFailed(f"{endpoint} is no hub: it names neither version nor checksum of {file}")
        url = hf_hub_url(repository, file, revision=found.commit_hash, endpoint=endpoint)
    return _Source(
        repository=repository, file=file, url=url, headers=headers, etag=found.etag, size=found.size
    )


def _near(repository: str, file: str, endpoint: str, token: str | None) -> str:
    """What there is instead, in words."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    api = HfApi(endpoint, token=token or None)
    try:
        there = api.list_repo_files(repository)
    except HTTPError:  # that the file is not there is known all the same
        return ""
    names = difflib.get_close_matches(file, there, n=3, cutoff=0.4) or sorted(there)[:10]
    return f"; there is {', '.join(names)}" if names else ", nor is anything else"


async def _rest(source: _Source, ours: Partial) -> AsyncGenerator[None, None]:
    """Adds what is missing, a step at a time, and goes on after the connection was lost."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    while not ours.complete:
        before = ours.done
        try:
            with _errors_of_the_hub(source.repository, source.file, source.url):
                async with aclosing(_stream(source, ours)) as steps:
                    async for _ in steps:
                        yield
            if source.size is None:
                return
            lost: ExoError = EngineFailed(f"{source.url} ends after {ours.done} of {source.size} bytes")
        except ExoError as error:
            cause = error.__cause__
            passing = isinstance(cause, HfHubHTTPError) and cause.response.status_code in _PASSING
            if not passing and not isinstance(cause, TransportError):
                raise
            lost = error
        failures = 0 if ours.done > before else failures + 1
        if failures == _ATTEMPTS:
            raise lost
        await asyncio.sleep(_PAUSE * (2**failures - 1))


# Too many requests, and a hub that is down or being replaced.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


async def _stream(source: _Source, ours: Partial) -> AsyncGenerator[None, None]:
    """One connection's worth of it."""
    from huggingface_hub import constants, get_async_session, hf_raise_for_status

    headers = {**source.headers, "accept-encoding": "identity", "range": f"bytes={ours.done}-"}
    # Reading all the certificates there are takes a while, too.
    client = await in_thread(get_async_session)
    async with (
        client as session,
        # Redirects to other hosts go without the token.
        session.stream(
            "GET", source.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response,
    ):
        hf_raise_for_status(response)
        if not response.headers.get("content-range", "").startswith(f"bytes {ours.done}-"):
            await in_thread(ours.restart)  # all of it comes
        gathered = bytearray()
        try:
            async for chunk in response.aiter_raw():
                gathered += chunk
                if len(gathered) >= _CHUNK:
                    full, gathered = bytes(gathered), bytearray()
                    await in_thread(partial(ours.add, full))
                    yield
        finally:
            # However it ends: what has come need not come again.
            await in_thread(partial(ours.add, bytes(gathered)))


async def in_thread(work: Callable[[], T]) -> T:
    """Its result, blocking nobody. Cancelled, still waits for the end, since a thread has no other."""
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.wait([done])
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise
    return done.result()


def _check(repository: str, file: str) -> None:
    """Names from requests become paths and addresses: only what cannot lead anywhere else."""
    if not _REPOSITORY.fullmatch(repository) or not file:
        name = f"{repository}/{file}"[:200]
        raise BadRequest(f"'{name}' names no file on the hub: give user/repository/file", param="model")
    if not all(map(_SEGMENT.fullmatch, file.split("/"))):
        raise BadRequest(f"'{file[:200]}' is no name of a file on the hub", param="model")


def check_room(folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise NotReady(
            f"{missing / 1e6:,.0f} MB are still to come and the disk of {folder} has {free / 1e6:,.0f} MB "
            "left: make room there"
        )


@contextmanager
def errors_of_the_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else os.strerror(error.errno or 0)
        raise NotReady(f"cannot write to {folder}: {why}") from error


@contextmanager
def _errors_of_the_hub(repository: str, file: str, endpoint: str) -> Iterator[None]:
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    what = f"{repository}/{file}" if file else repository
    where = f", where '{file}' would be" if file else ""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise NotReady("HF_HUB_OFFLINE is set, so nothing is downloaded: unset it first") from error
    except HFValidationError as error:
        raise BadRequest(f"'{repository}' is no name of a repository: {error}", param="model") from error
    except GatedRepoError as error:
        raise Forbidden(
            f"{repository} is gated: accept its terms on {_host(endpoint)}, and set HF_TOKEN to a token of "
            "that account",
            param="model",
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"there is no repository {repository} on {_host(endpoint)}{where}; if it is "
            "private, set HF_TOKEN to a token that may read it",
            param="model",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise Forbidden(
                f"{_host(endpoint)} refuses {what} with status {status}: set HF_TOKEN to a token that may "
                "read it, or correct the one that is set",
                param="model",
            ) from error
        if status == 404:
            raise NotFound(f"there is no {what} on {_host(endpoint)}", param="model") from error
        raise EngineFailed(f"{_host(endpoint)} answered with status {status} for {what}") from error
    except (HTTPError, InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise NotReady(f"cannot reach {_host(endpoint)} for {what}: {why}") from error


def _host(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])
