"""Builds the stand-ins and the model files once a session. A compiler is required: nothing is skipped."""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from demo import rkllm_container
from demo.engine_check import LlamaServer
from demo.rkllm_container import Label
from tests.standin.vendor import RELEASES, Library

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src/exo/store/bundled/exo-demo"


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `<release>/librkllmrt.so`."""
    into = tmp_path_factory.mktemp("standin")
    subprocess.run(["make", "-s", "-C", str(ROOT / "standin"), f"BUILD={into}"], check=True)
    return into


@pytest.fixture(scope="session")
def load(build: Path) -> Callable[[str], Library]:
    """The stand-in of a release."""
    return cache(lambda release: Library(release, build / release / "librkllmrt.so"))


@pytest.fixture(scope="session")
def file_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model file with this label."""
    into = tmp_path_factory.mktemp("models")

    @cache
    def made(
        release: str = "1.2.3", platform: str = "rk3588", dtype: str = "w8a8", context: int = 2048
    ) -> Path:
        path = into / f"{release}-{platform}-{dtype}-{context}.rkllm"
        rkllm_container.write(SHIPPED, path, Label(release, platform, dtype, context))
        return path

    return made


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
