"""What tinygrad compiles for the tests of this folder."""

from pathlib import Path

import pytest

from tests.engines.shards import FEW_STEPS


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tinygrad keeps it."""
    from tinygrad import helpers

    folder = tmp_path_factory.mktemp("compiled")
    helpers.CACHEDB = str(folder / "tinygrad.db")
    return folder


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from exo.engines.tinygrad import shard

    monkeypatch.setattr(shard, "_STEPS", FEW_STEPS)
