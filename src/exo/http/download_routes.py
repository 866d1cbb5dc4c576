"""Downloads, and what could be downloaded: the first exo's routes, for the models on this node's disk."""

import time
from collections.abc import Iterator, Sequence

import msgspec
from aiohttp import web

from exo.http.app import RECORD, body_of, json_answer
from exo.http.callers import owner_only
from exo.http.desk import DESK
from exo.store import families
from exo.store.catalogue import Catalogue
from exo.store.downloads import Download
from exo.wire import downloads as wire


def routes(shelf: Catalogue) -> Sequence[web.AbstractRouteDef]:
    """For the node that keeps its models on `shelf`."""
    handlers = _Handlers(shelf)
    return [
        web.post("/download", handlers.download),
        web.delete("/download/{id:.+}", handlers.stop),
        web.get("/v1/download/progress", handlers.progress),
        web.get("/modelpool", handlers.pool),
        web.get("/initial_models", handlers.initial),
        web.delete("/models/{id:.+}", handlers.delete),
        web.delete("/v1/models/{id:.+}", handlers.delete),
    ]


class _Handlers:
    def __init__(self, shelf: Catalogue) -> None:
        self._shelf = shelf

    async def download(self, http: web.Request) -> web.StreamResponse:
        """Answers when the download has begun; it goes on without the client. What fails later is told by
        `/v1/download/progress`."""
        owner_only(http)
        call = wire.decode_download(await body_of(http))
        http[RECORD].model = call.model
        model = await self._shelf.start_pull(call.model)
        return json_answer(wire.answer(f"Download started for model: {model}"))

    async def stop(self, http: web.Request) -> web.StreamResponse:
        """Stops a download, or forgets that it failed; what has come is kept."""
        owner_only(http)
        model = http[RECORD].model = http.match_info["id"]
        await self._shelf.downloads.stop(model)
        return json_answer(wire.answer(f"Download stopped for model: {model}"))

    async def progress(self, http: web.Request) -> web.StreamResponse:
        found = {model: _shown(download) for model, download in self._shelf.downloads.items()}
        return json_answer(wire.progress_answer(http.app[DESK].served.cluster().me.id, found))

    async def pool(self, http: web.Request) -> web.StreamResponse:
        """Events, one a model: those that are here, those on their way, and those that are known."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        self._shelf.scan()
        models = list(self._pool())
        await response.prepare(http)
        await response.write(b"".join(wire.pool_event(model, state) for model, state, _ in models))
        await response.write_eof(wire.POOL_END)
        http[RECORD].status = response.status
        return response

    async def initial(self, http: web.Request) -> web.StreamResponse:
        self._shelf.scan()
        return json_answer(
            wire.initial_answer(
                (model, wire.InitialModel(name=name, **msgspec.structs.asdict(state)))
                for model, state, name in self._pool()
            )
        )

    async def delete(self, http: web.Request) -> web.StreamResponse:
        """Takes a model off the disk, or what is here of one that is not whole."""
        owner_only(http)
        model = http[RECORD].model = http.match_info["id"]
        self._shelf.scan()
        if model not in self._shelf and model in self._shelf.unfinished:
            self._shelf.delete(model)
        else:
            await http.app[DESK].served.delete(model)
        return json_answer(wire.answer(f"Model {model} deleted successfully"))

    def _pool(self) -> Iterator[tuple[str, wire.PoolModel, str]]:
        """Ids, states, and names for people."""
        shelf = self._shelf
        names = {known.id: known.name for known in families.everyone()}
        states = {known: _state(0, 0) for known in names}
        states |= {model: _state(each.done, each.total) for model, each in shelf.downloads.items()}
        whole = [card for card, _ in shelf.on_disk.values()]
        states |= {card.id: _state(card.bytes, card.bytes, here=True) for card in whole}
        for model, state in states.items():
            yield model, state, names.get(model, model)


def _state(done: int, total: int, *, here: bool = False) -> wire.PoolModel:
    percentage = 100.0 * done / total if total else 0.0
    return wire.PoolModel(
        downloaded=here, download_percentage=percentage, total_size=total, total_downloaded=done
    )


def _shown(download: Download) -> wire.RepoProgress:
    seconds = time.monotonic() - download.began
    files = [
        wire.file_progress(download.source, name, file.done, download.come(name), file.total, seconds)
        for name, file in download.files.items()
    ]
    failure = download.failure.message if download.failure else ""
    return wire.repo_progress(files, download.source, seconds, failure)
