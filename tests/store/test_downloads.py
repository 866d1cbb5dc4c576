"""One download for each model, whoever asks for it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from exo.cards import Progress
from exo.errors import EngineFailed, NotReady
from exo.store.downloads import Downloads

STEPS = [Progress("a", 0, 10), Progress("a", 4, 10), Progress("a", 10, 10)]


class Script:
    """A download that goes on when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = asyncio.Semaphore(0)
        self.begun = 0
        self.stopped = False
        self._error = error

    async def steps(self) -> AsyncGenerator[Progress, None]:
        self.begun += 1
        try:
            for step in STEPS:
                await self.go.acquire()
                yield step
            await self.go.acquire()
            if self._error:
                raise self._error
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped = True
            raise

    def all(self) -> None:
        for _ in range(4):
            self.go.release()


@pytest.fixture
async def downloads() -> AsyncIterator[Downloads]:
    downloads = Downloads()
    yield downloads
    await downloads.close()


async def followed(downloads: Downloads, script: Script) -> list[Progress]:
    async with aclosing(downloads.follow("m", "user/m", script.steps)) as steps:
        return [step async for step in steps]


async def test_who_comes_later_joins_and_sees_all_of_it(downloads: Downloads) -> None:
    script = Script()
    first = asyncio.create_task(followed(downloads, script))
    script.go.release()
    script.go.release()
    while not downloads or downloads["m"].done < 4:
        await asyncio.sleep(0)
    second = asyncio.create_task(followed(downloads, script))
    while len(downloads["m"]._watchers) < 2:
        await asyncio.sleep(0)
    assert (downloads["m"].done, downloads["m"].total, downloads["m"].come()) == (4, 10, 0)
    script.all()
    assert await first == STEPS
    assert await second == STEPS[1:]
    assert script.begun == 1
    assert not downloads


async def test_the_last_one_to_leave_stops_it(downloads: Downloads) -> None:
    script = Script()
    async with aclosing(downloads.follow("m", "user/m", script.steps)) as first:
        script.go.release()
        await anext(first)
        async with aclosing(downloads.follow("m", "user/m", script.steps)) as second:
            await anext(second)
        assert not script.stopped
    assert script.stopped
    assert not downloads


async def test_one_in_the_background_goes_on_without_anyone(downloads: Downloads) -> None:
    script = Script()
    script.go.release()
    script.go.release()
    await downloads.start("m", "user/m", script.steps)
    async with aclosing(downloads.follow("m", "user/m", script.steps)) as steps:
        await anext(steps)
    assert not script.stopped
    script.all()
    await asyncio.wait([downloads["m"].task])
    assert not script.stopped


@pytest.mark.parametrize("announced", [[], [Progress("a", 0, 10), Progress("b", 0, 10)]])
async def test_what_fails_before_it_is_going_is_told_to_whoever_asked(
    downloads: Downloads, announced: list[Progress]
) -> None:
    async def fails() -> AsyncGenerator[Progress, None]:
        for step in announced:
            yield step
        raise NotReady("no network")

    with pytest.raises(NotReady, match="no network"):
        await downloads.start("m", "user/m", fails)
    await asyncio.sleep(0)
    assert not downloads


async def test_what_fails_later_is_kept_until_it_is_tried_again(
    downloads: Downloads, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(EngineFailed("the wheel came off"))
    script.all()
    await downloads.start("m", "user/m", script.steps)
    await asyncio.wait([downloads["m"].task])
    assert str(downloads["m"].failure) == "the wheel came off"
    assert "the download of m failed: the wheel came off" in caplog.text
    again = Script()
    again.all()
    assert await followed(downloads, again) == STEPS
    assert not downloads


async def test_at_the_end_all_are_stopped_and_say_so(downloads: Downloads) -> None:
    script = Script()
    follower = asyncio.create_task(followed(downloads, script))
    script.go.release()
    while not downloads or not downloads["m"].files:
        await asyncio.sleep(0)
    await downloads.close()
    assert script.stopped
    with pytest.raises(NotReady, match="stopped"):
        await follower
