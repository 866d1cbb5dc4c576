"""Loading a model into shards, and everything that can go wrong with it."""

import asyncio
import gc
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exo.cards import ModelCard, Span
from exo.errors import EngineFailed, NotReady
from exo.shards.engine import LayersEngine, Split
from exo.shards.process import RunningShard
from exo.store.catalogue import BUNDLED, Catalogue
from tests.shards.conftest import FOLDER, NUMPY, TROUBLED
from tests.shards.workers import workers

CARD = Catalogue(BUNDLED)["exo-demo"][0]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    gc.collect()  # see conftest.start
    assert workers() == []


def engine(module: str = NUMPY) -> LayersEngine:
    return LayersEngine("numpy", module)


def test_it_is_available_where_its_module_is() -> None:
    assert engine().unavailable() is None
    assert engine(TROUBLED).unavailable() == "it is always in trouble"
    assert engine().formats == {"safetensors"}
    assert repr(engine()) == "<LayersEngine numpy>"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_a_folder_that_lacks_a_file_is_named(tmp_path: Path, missing: str) -> None:
    for file in FOLDER.iterdir():
        if file.name != missing:
            shutil.copy(file, tmp_path)
    with pytest.raises(EngineFailed, match=str(tmp_path)):
        await engine().load(CARD, tmp_path)


async def test_whoever_opens_a_part_is_told_how_far_it_is() -> None:
    told: list[float] = []
    shard = await engine().open(FOLDER, Span(2, 4), ends=False, slots=1, context=64, progress=told.append)
    await shard.stop()
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) > 10


class Rest:
    """The other nodes of a split, which this test lets load or fail."""

    def __init__(self) -> None:
        self.asked, self.ready = asyncio.Event(), asyncio.Event()
        self.fails = False

    async def plan(self, card: ModelCard, folder: Path) -> Split:
        async def open_rest() -> Sequence[RunningShard]:
            span = Span(3, 6)
            shard = await engine().open(folder, span, ends=False, slots=1, context=card.context)
            self.asked.set()
            try:
                await self.ready.wait()
            except asyncio.CancelledError:
                await shard.stop()
                raise
            if self.fails:
                await shard.stop()
                raise NotReady("the other node has no room")
            return [shard]

        return Split(Span(0, 3), open_rest)


async def test_if_the_rest_cannot_be_opened_nothing_is_left() -> None:
    rest = Rest()
    rest.fails = True
    rest.ready.set()
    with pytest.raises(NotReady, match="the other node has no room"):
        await LayersEngine("numpy", NUMPY, plan=rest.plan).load(CARD, FOLDER)


async def test_if_its_own_part_cannot_be_opened_nothing_is_left() -> None:
    rest = Rest()
    rest.ready.set()
    with pytest.raises(EngineFailed, match="float32, not in float16"):
        await LayersEngine("numpy", NUMPY, dtype="float16", plan=rest.plan).load(CARD, FOLDER)


async def test_a_load_that_is_cancelled_leaves_nothing() -> None:
    rest = Rest()
    loading = asyncio.create_task(LayersEngine("numpy", NUMPY, plan=rest.plan).load(CARD, FOLDER))
    await rest.asked.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading


async def test_a_template_that_is_broken_leaves_nothing(tmp_path: Path) -> None:
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(EngineFailed, match="the model's chat template is broken"):
        await engine().load(CARD, tmp_path)
