"""Libraries to test against, compiled once in a session."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rkllama.vendor.abi import Release
from tests.rkllama.cheader import header

SCRIPTED = Path(__file__).with_name("scripted.c")
Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def cc() -> str:
    found = shutil.which("cc")
    assert found, "these tests compile C: install a compiler (apt install gcc)"
    return found


@pytest.fixture(scope="session")
def compiled(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile C into a shared library of its own."""

    def compile_library(source: str, release: Release | None = None) -> Path:
        place = tmp_path_factory.mktemp("library")
        (place / "library.c").write_text(source)
        if release is not None:
            (place / "rkllm.h").write_text(header(release))
        command = [
            cc,
            "-O2",
            "-Wall",
            "-Wno-uninitialized",
            "-Werror",
            "-shared",
            "-fPIC",
            "-pthread",
            "-I",
            str(place),
        ]
        subprocess.run([*command, "-o", "librkllmrt.so", "library.c"], check=True, cwd=place)
        return place / "librkllmrt.so"

    return compile_library


@pytest.fixture(scope="session")
def scripted(compiled: Compile) -> Callable[[Release], Path]:
    """The runtime of scripted.c, as the given release has it."""
    made: dict[Release, Path] = {}

    def of(release: Release) -> Path:
        if release not in made:
            made[release] = compiled(f"#define RELEASE {int(release)}\n" + SCRIPTED.read_text(), release)
        return made[release]

    return of
