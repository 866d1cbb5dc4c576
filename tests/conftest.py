"""What all tests share: the stand-in runtime and its model files, and how property tests run.

The stand-in is built once a session. A compiler is required: nothing is skipped.
"""

import signal
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from demo import rkllm_container
from demo.rkllm_container import Label
from exo.store.catalogue import BUNDLED

# Property tests are not timed: on a busy machine that would fail them for nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell has what it starts in the background ignore Ctrl-C, and so do the programs started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

STANDIN = Path(__file__).parents[1] / "standin"


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `<release>/librkllmrt.so`."""
    into = tmp_path_factory.mktemp("standin")
    subprocess.run(["make", "-s", "-C", str(STANDIN), f"BUILD={into}"], check=True)
    return into


@pytest.fixture(scope="session")
def file_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model file with this label."""
    into = tmp_path_factory.mktemp("models")

    @cache
    def made(
        release: str = "1.2.3", platform: str = "rk3588", dtype: str = "w8a8", context: int = 2048
    ) -> Path:
        path = into / f"{release}-{platform}-{dtype}-{context}.rkllm"
        rkllm_container.write(BUNDLED / "exo-demo", path, Label(release, platform, dtype, context))
        return path

    return made
