"""The stand-ins through the tests' own declarations, and what they are compared with."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from demo.engine_check import LlamaServer
from tests.standin.vendor import RELEASES, Library

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src/exo/store/bundled/exo-demo"


@pytest.fixture(scope="session")
def load(build: Path) -> Callable[[str], Library]:
    """The stand-in of a release."""
    return cache(lambda release: Library(release, build / release / "librkllmrt.so"))


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


@pytest.fixture(scope="session")
def llama() -> LlamaServer:
    """The CPU engine that exo really serves with."""
    return LlamaServer(SHIPPED / "model.gguf")
