"""Downloads under way: one for each model, that anyone may join and watch."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing

from exo.cards import Progress
from exo.errors import ExoError, NotFound, NotReady

log = logging.getLogger(__name__)


class Download:
    """One of them, as it is now. `files` are those that it takes, by name, `failure` why it failed."""

    def __init__(self, source: str, steps: AsyncGenerator[Progress, None], kept: bool) -> None:
        self.source = source
        """The repository, and the file of it if it is one."""
        self.files: dict[str, Progress] = {}
        self.failure: ExoError | None = None
        self.began = time.monotonic()
        self.kept = kept
        """Whether it goes on without anyone who watches."""
        self._before: dict[str, int] = {}
        self._steps = steps
        self._watchers: set[asyncio.Queue[Progress | None]] = set()
        self.task = asyncio.create_task(self._run())

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return sum(file.done for file in self.files.values())

    @property
    def total(self) -> int:
        """Bytes of all files that are known so far."""
        return sum(file.total for file in self.files.values())

    @property
    def going(self) -> bool:
        """Whether it is past telling what it takes: the hub has let it have the first file."""
        return bool(self._before)

    def come(self, file: str | None = None) -> int:
        """Bytes, of one file or of all, that have come since it began, and were not here before."""
        names = [file] if file else self.files
        return sum(self.files[name].done - self._before.get(name, 0) for name in names)

    async def watch(self) -> AsyncGenerator[Progress, None]:
        """How far it is, and each step from now on; raises what it fails with. The last one to leave stops
        it, unless it is kept."""
        news: asyncio.Queue[Progress | None] = asyncio.Queue()
        for step in self.files.values():
            news.put_nowait(step)
        if self.task.done():
            news.put_nowait(None)
        self._watchers.add(news)
        try:
            while (told := await news.get()) is not None:
                yield told
            if self.task.cancelled():
                raise NotReady("the download was stopped; what has come is kept for the next time")
            self.task.result()
            if self.failure:
                raise self.failure
        finally:
            self._watchers.discard(news)
            if not (self._watchers or self.kept):
                await self.stop()

    async def stop(self) -> None:
        """Ends it; what has come stays for the next time."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        try:
            async with aclosing(self._steps):
                async for step in self._steps:
                    self._note(step)
                    for news in self._watchers:
                        news.put_nowait(step)
        except ExoError as error:
            self.failure = error
        finally:
            for news in self._watchers:
                news.put_nowait(None)

    def _note(self, step: Progress) -> None:
        known = self.files.get(step.file)
        # A file is announced with nothing done; its first step after that is what was here before.
        if known is not None and step.file not in self._before:
            self._before[step.file] = step.done
        self.files[step.file] = step


class Downloads(Mapping[str, Download]):
    """Those that are under way, and those in the background that failed, by the model's id."""

    def __init__(self) -> None:
        self._downloads: dict[str, Download] = {}

    def __getitem__(self, model: str) -> Download:
        return self._downloads[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self._downloads)

    def __len__(self) -> int:
        return len(self._downloads)

    async def follow(
        self, model: str, source: str, begin: Callable[[], AsyncGenerator[Progress, None]]
    ) -> AsyncGenerator[Progress, None]:
        """Begins the download, or joins the one of the same model. Raises what it fails with."""
        download = self._joined(model, source, begin, kept=False)
        async with aclosing(download.watch()) as steps:
            async for step in steps:
                yield step

    async def start(
        self, model: str, source: str, begin: Callable[[], AsyncGenerator[Progress, None]]
    ) -> None:
        """Has it go on in the background. Returns when it is going, or raises what it fails with before that;
        what fails later is in `failure`, and in the log."""
        download = self._joined(model, source, begin, kept=True)
        async with aclosing(download.watch()) as steps:
            async for _ in steps:
                if download.going:
                    break

    async def stop(self, model: str) -> None:
        """Stops one that is under way, whoever watches it, and forgets one that failed; what has come stays
        for the next time. Raises `NotFound` where there is neither."""
        if model not in self._downloads:
            raise NotFound(f"'{model}' is not being downloaded; /v1/download/progress lists what is")
        await self._downloads[model].stop()
        self._downloads.pop(model, None)

    async def close(self) -> None:
        """Stops all of them; what has come stays for the next time."""
        await asyncio.gather(*(download.stop() for download in self._downloads.values()))

    def _joined(
        self, model: str, source: str, begin: Callable[[], AsyncGenerator[Progress, None]], *, kept: bool
    ) -> Download:
        download = self._downloads.get(model)
        if download is None or download.task.done():
            download = self._downloads[model] = Download(source, begin(), kept)
            download.task.add_done_callback(lambda task: self._ended(model, download))
        elif kept:
            download.kept = True
        return download

    def _ended(self, model: str, download: Download) -> None:
        if not download.task.cancelled() and (defect := download.task.exception()):
            log.critical("a defect in the download of %s", model, exc_info=defect)
        # One that fails before tells whoever has just asked for it.
        if download.failure and download.kept and download.going:
            log.error("the download of %s failed: %s", model, download.failure)
        elif self._downloads.get(model) is download:
            del self._downloads[model]
