"""A board without its NPU: the stand-in runtime, a model for each release of it, and servers over them."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.client import chat
from bench.npu_direct import DirectRuntime
from bench.server import NodeProcess
from demo import rkllm_container
from exo.chat import ChatRequest, Message
from exo.generation.templates import ChatTemplate
from exo.store.catalogue import BUNDLED

RELEASES = ("1.1.4", "1.2.0", "1.2.3", "1.3.0")
RELEASE = RELEASES[-1]
"""The one whose figures count."""
MODEL = "demo"
SUBJECT = (
    f"`rkllama` over the stand-in runtime, release {RELEASE}, which computes `exo-demo`. Alone is the same "
    "library in a process without a server, through `rkllama`'s own binding, given the same finished prompt."
)
"""The beginning of each method."""

_DEMO = BUNDLED / "exo-demo"
_STANDIN = Path(__file__).parents[1] / "standin"


class Board:
    """Builds the stand-in, which takes a C compiler, into a folder that goes with the context."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="exo-bench-npu-"))
        try:
            self._template = ChatTemplate((_DEMO / "chat_template.jinja").read_text(encoding="utf-8"))
            make = ["make", "--silent", f"--directory={_STANDIN}", f"BUILD={self._folder}/runtime"]
            subprocess.run([*make, f"RELEASES={' '.join(RELEASES)}"], check=True, stdout=subprocess.DEVNULL)
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder)

    def server(self, release: str = RELEASE, **standin: str) -> NodeProcess:
        """The NPU server over the runtime of `release`, which is told `standin` by its environment."""
        models = self.model_file(release).parents[1]
        return NodeProcess(
            "--target_platform",
            "rk3588",
            "--models",
            str(models),
            program="rkllama.main",
            environment={"RKLLM_LIB_PATH": str(self.library(release)), **standin},
        )

    def direct(self, release: str = RELEASE, **standin: str) -> DirectRuntime:
        """The same without a server."""
        return DirectRuntime(self.library(release), self.model_file(release), standin)

    def prompt(self, question: str) -> str:
        """What the server makes of `ask`'s conversation."""
        request = ChatRequest(model=MODEL, messages=(Message("user", question),), thinking=False)
        return self._template.render(request).prompt

    def library(self, release: str) -> Path:
        return self._folder / "runtime" / release / "librkllmrt.so"

    def model_file(self, release: str) -> Path:
        file = self._folder / "models" / release / MODEL / f"{MODEL}.rkllm"
        if not file.exists():
            file.parent.mkdir(parents=True)
            rkllm_container.write(_DEMO, file, rkllm_container.Label(release=release))
            for beside in ("chat_template.jinja", "tokenizer.json"):
                shutil.copy(_DEMO / beside, file.parent)
            (file.parent / "Modelfile").write_text("TEMPERATURE=0\n", encoding="ascii")
        return file


def ask(question: str, max_tokens: int, **options: Any) -> bytes:
    """A request for the board's model, ready to be sent."""
    settings = {"temperature": 0, "max_tokens": max_tokens, "enable_thinking": False}
    return chat(MODEL, question, **settings, **options)
