from pathlib import Path

import pytest

from exo.cards import ModelCard
from exo.engine import LoadedModel
from exo.errors import EngineFailed
from exo.residency import loading
from tests.doubles import card


class Engine:
    def __init__(self, *formats: str, lacks: str | None = None) -> None:
        self.formats = frozenset(formats)
        self._lacks = lacks

    def unavailable(self) -> str | None:
        return self._lacks

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        raise NotImplementedError


BROKEN, GGUF, BOTH = Engine("gguf", lacks="no libgomp"), Engine("gguf"), Engine("script", "gguf")


def test_the_first_engine_that_runs_here_loads_a_model() -> None:
    assert loading.engine_for(card("m", format="gguf"), [BROKEN, GGUF, BOTH]) is GGUF
    assert loading.engine_for(card("m", format="script"), [BROKEN, GGUF, BOTH]) is BOTH


def test_it_is_said_why_no_engine_loads_a_model() -> None:
    other = Engine("gguf", lacks="no GPU")
    with pytest.raises(EngineFailed, match="'m' cannot be loaded: no libgomp; no GPU"):
        loading.engine_for(card("m", format="gguf"), [BROKEN, other])
    with pytest.raises(EngineFailed, match="'m' is script, which no engine enabled"):
        loading.engine_for(card("m", format="script"), [BROKEN, GGUF])


def test_an_engine_that_does_not_run_here_counts_for_a_model_but_not_for_the_formats() -> None:
    assert loading.loads(card("m", format="gguf"), [BROKEN])
    assert not loading.loads(card("m", format="script"), [BROKEN])
    assert loading.formats([BROKEN]) == ()
    assert loading.formats([BROKEN, BOTH]) == ("gguf", "script")
