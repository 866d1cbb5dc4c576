"""What the converter's tests share: the stand-in toolkit in a process of its own, and models to convert."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import standin_toolkit

from rkllm_convert import fetch
from rkllm_convert.convert import Conversion
from rkllm_convert.log import Progress
from rkllm_convert.request import Machine, Request
from tests.conftest import build, file_for

__all__ = ["build", "file_for"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUNDLED = ROOT / "src" / "exo" / "store" / "bundled" / "exo-demo"
# A Python that each release is made for; the tests themselves run in another one.
PYTHON = {"1.1.4": (3, 10), "1.2.3": (3, 11), "1.3.0": (3, 11)}


class Bench:
    """The stand-in toolkit of a release, which the children of this process find."""

    def __init__(self, folder: Path, release: str, patch: pytest.MonkeyPatch) -> None:
        self.release, self.folder, self._patch = release, folder, patch
        self.record = folder / "record.jsonl"
        self.out = folder / "models"
        self.said: list[str] = []
        self.progress: list[Progress] = []
        path = standin_toolkit.install(folder / "toolkit", release)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (path, HERE, ROOT))))
        patch.setenv("TOOLKIT_STANDIN_RECORD", str(self.record))
        patch.delenv("TOOLKIT_STANDIN_FAULT", raising=False)

    def fault(self, text: str) -> None:
        self._patch.setenv("TOOLKIT_STANDIN_FAULT", text)

    def healthy(self) -> None:
        self._patch.delenv("TOOLKIT_STANDIN_FAULT", raising=False)

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """What the toolkit was called with, in order."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [(each["method"], each["arguments"]) for each in map(json.loads, lines)]

    def say(self, what: str, progress: Progress | None) -> None:
        if progress is None:
            self.said.append(what)
        else:
            self.progress.append(progress)

    def conversion(self, model: Path | str = BUNDLED, *, replace: bool = False, **asked: Any) -> Conversion:
        request = Request(**{"platform": "rk3588", "name": "demo", **asked})
        machine = Machine(python=PYTHON[self.release], toolkit=self.release)
        return Conversion(fetch.find(str(model)), request, self.out, sys.executable, machine, replace)

    def left(self) -> list[str]:
        """All files in the folder of models, hidden ones too."""
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file())


@pytest.fixture(params=["1.2.3"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, request.param, monkeypatch)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched from anywhere but this machine."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
