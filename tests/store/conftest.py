"""A hub on this machine, for the tests of this folder."""

from collections.abc import AsyncIterator

import pytest
from huggingface_hub import constants

from exo.store import hub

from .mirror import Mirror


@pytest.fixture
async def mirror(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    monkeypatch.setattr(hub, "_PAUSE", 0.0)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    async with Mirror().running() as mirror:
        yield mirror
