"""What engines of layers are compared with: a library's own way to decode, in a process without exo.

`python -m bench.layers_alone mlx FOLDER`, or `tinygrad FILE.gguf`, and the number of threads. It reads from
stdin, a number of tokens a line; decodes so many behind a short prompt, greedily; and prints how many it
made a second, from the first one to the last.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from bench.layers_model import CONTEXT

PROMPT = range(10, 26)
"""Tokens."""

Generate = Callable[[int], Iterator[int]]


class Alone:
    """The program, until the context is left."""

    def __init__(self, library: str, path: Path, threads: int) -> None:
        self._command = [sys.executable, "-m", "bench.layers_alone", library, str(path), str(threads)]

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def decode(self, tokens: int) -> float:
        """Tokens a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(tokens, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def main() -> None:
    library, path, threads = sys.argv[1:]
    # What libraries print is not to be taken for the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    generate = {"mlx": _mlx, "tinygrad": _tinygrad}[library](Path(path), int(threads))
    for line in sys.stdin:
        tokens = int(line)
        each = generate(tokens)
        next(each)
        began = time.perf_counter()
        for _ in range(tokens - 1):
            next(each)
        print((tokens - 1) / (time.perf_counter() - began), file=answers, flush=True)


def _mlx(folder: Path, threads: int) -> Generate:
    """What `mlx_lm.generate` decodes with, less its detokenizer. On a CPU it has one thread."""
    _do_without_transformers()
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model: Any = load_model(folder)[0]

    def generate(tokens: int) -> Iterator[int]:
        # One more than is asked for, so that no step is left out behind the last one.
        for token, _ in generate_step(mx.array(list(PROMPT)), model, max_tokens=tokens + 1):
            yield int(token)

    return generate


def _do_without_transformers() -> None:
    """mlx-lm imports it for its tokenizers. Where it is not installed, something of the name is put in its
    place, as nothing here makes use of it."""
    if find_spec("transformers") is not None:
        return
    package, base = ModuleType("transformers"), ModuleType("transformers.tokenization_utils_base")
    for name in ("AutoTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast"):
        setattr(package, name, type(name, (), {"register": lambda *_, **__: None}))
    base.PreTrainedTokenizerBase = type("PreTrainedTokenizerBase", (), {})  # type: ignore[attr-defined]
    sys.modules |= {package.__name__: package, base.__name__: base}


def _tinygrad(path: Path, threads: int) -> Generate:
    """The model of `tinygrad.llm`, its LLM app, in float32 as the weights are; the app's own default casts
    them to float16, which a CPU emulates. Compiled as our own layers are."""
    os.environ["HALF"] = "0"
    from exo.engines.tinygrad.compiler import use_llvmlite

    use_llvmlite(threads)
    from tinygrad.llm.model import Transformer

    model = Transformer.from_gguf(path, CONTEXT, realize=True)[0]

    def generate(tokens: int) -> Iterator[int]:
        # Any number of them: it goes on to the end of the context.
        return iter(model.generate(list(PROMPT)))

    return generate


if __name__ == "__main__":
    main()
