"""`exo run` where no node runs: it answers itself, also for "auto"."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo.assembly import local_node
from exo.chat import ChatRequest, Finished, Message, Text
from exo.cli.chat.asked import check_offered, default_model
from exo.cli.chat.here import Here
from exo.errors import BadRequest, ModelNotFound
from exo.settings import Settings
from tests.e2e.node import text, write_script


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    """With two models, of which one is for those who think."""
    write_script(tmp_path, "hello", [text("Hello")])
    write_script(tmp_path, "deepseek-r1-hello", [text("Hello, after some thought")])
    settings = Settings(node_id="me", folders=(tmp_path / "models",), memory=10**9, context=4096, slots=1)
    async with local_node(settings) as node:
        yield Here(node)


async def said(here: Here, model: str) -> str:
    request = ChatRequest(model=model, messages=(Message("user", "hi"),))
    deltas = [delta async for delta in here.respond(request)]
    assert isinstance(deltas[-1], Finished)
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


async def test_auto_is_offered_first_and_chosen_where_nothing_is_named(here: Here) -> None:
    assert await here.models() == ["auto", "deepseek-r1-hello", "hello"]
    assert await default_model(here) == "auto"


async def test_auto_is_one_of_the_models_and_it_is_said_which(here: Here) -> None:
    assert await said(here, "auto:quick") == "Hello"
    assert (await here.origin()).model == "hello"
    assert (await here.origin()).why == "auto: quick, as asked"
    assert await said(here, "auto:reasoning") == "Hello, after some thought"
    assert (await here.origin()).model == "deepseek-r1-hello"
    assert await said(here, "hello") == "Hello"
    assert ((await here.origin()).node, (await here.origin()).model) == ("me", "")


async def test_a_model_leaves_memory_when_told_to(here: Here) -> None:
    await said(here, "hello")
    assert [resident.model for resident in here.node.cluster().me.loaded] == ["hello"]
    await here.unload("hello")
    assert not here.node.cluster().me.loaded


# Which model


class Offering:
    """Offers those models."""

    where = "there"

    def __init__(self, *models: str) -> None:
        self._models = models

    async def models(self) -> tuple[str, ...]:
        return self._models


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        (("auto", "a", "b"), "auto"),
        (("a",), "a"),
        (("a", "exo-demo"), "exo-demo"),
        (("a", "auto", "exo-demo"), "auto"),
    ],
)
async def test_without_a_name_it_is_auto_the_only_one_or_the_bundled_one(
    models: tuple[str, ...], chosen: str
) -> None:
    assert await default_model(Offering(*models)) == chosen


@pytest.mark.parametrize(("models", "named"), [(("a", "b"), "a, b"), ((), "does not say")])
async def test_where_that_is_not_clear_a_name_is_asked_for(models: tuple[str, ...], named: str) -> None:
    with pytest.raises(BadRequest, match=f"name a MODEL there: .*{named}"):
        await default_model(Offering(*models))


def test_a_model_has_to_be_offered_where_a_list_says_what_is() -> None:
    for model, models in (("b", ["a", "b"]), ("b", []), ("auto:quick", ["auto", "a"])):
        check_offered(model, models)
    for model, models in (("hallo", ["hello"]), ("auto:quick", ["hello"]), ("auto:fast", ["auto"])):
        with pytest.raises(ModelNotFound, match=model):
            check_offered(model, models)
