"""A board for tests: models in a folder, the stand-in runtime, an engine over them."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from exo.chat import ChatRequest, Message, Sampling
from exo.store.catalogue import BUNDLED
from rkllama.engine import RkllmEngine
from rkllama.models.catalogue import Models

RELEASES = ("1.1.4", "1.2.0", "1.2.3", "1.3.0")
GREEDY = Sampling(temperature=0)
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


def put_model(
    folder: Path,
    file: Path,
    name: str = "demo",
    *,
    modelfile: str = "TEMPERATURE=0\n",
    beside: Iterable[str] = _BESIDE,
) -> Path:
    """A model's folder, with what came with the model besides."""
    own = folder / name
    own.mkdir(parents=True)
    shutil.copy(file, own / file.name)
    for each in beside:
        shutil.copy(BUNDLED / "exo-demo" / each, own / each)
    (own / "Modelfile").write_text(modelfile)
    return own


class Board:
    """The runtime of `release` and the models put on it."""

    def __init__(
        self, folder: Path, build: Path, file_for: Callable[..., Path], release: str = "1.2.3"
    ) -> None:
        self.folder = folder
        self.release = release
        self.library = build / release / "librkllmrt.so"
        self._file_for = file_for

    def put(self, name: str = "demo", *, context: int = 2048, **keys: object) -> Path:
        return put_model(self.folder, self._file_for(self.release, context=context), name, **keys)  # type: ignore[arg-type]

    def engine(self, **standin: str) -> RkllmEngine:
        """`standin` is what the stand-in is told by its environment."""
        self.models = Models(self.folder)
        return RkllmEngine(self.models, self.library, environment={**os.environ, **standin})


def request(question: str = "What is 12 + 7?", **fields: object) -> ChatRequest:
    asked = {"thinking": False, "sampling": GREEDY, **fields}
    return ChatRequest(model="demo", messages=(Message("user", question),), **asked)  # type: ignore[arg-type]
