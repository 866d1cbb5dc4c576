"""As much of transformers and torch as writing calibration data takes: the model's real tokenizer and
template, and a model that answers "answer N" to its Nth prompt.

TRANSFORMERS_STANDIN_RECORD names a file that gets a JSON line for each answer, TRANSFORMERS_STANDIN_DIES_AT
the number of the answer at which the process is killed.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from demo.template import render
from tokenizers import Tokenizer


class _Tokens(list):  # type: ignore[type-arg] # of one row, with numpy's `shape`
    @property
    def shape(self) -> tuple[int, int]:
        return 1, len(self[0])


class _Batch(dict):  # type: ignore[type-arg] # what `model(**batch)` takes
    def to(self, device: str) -> "_Batch":
        assert device == "cpu"
        return self


class AutoTokenizer:
    tokenizer: Tokenizer
    added: ClassVar[list[bool]] = []

    @classmethod
    def from_pretrained(cls, folder: str) -> "AutoTokenizer":
        made = cls()
        AutoTokenizer.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        return made

    def apply_chat_template(
        self, messages: list[Any], tokenize: bool, add_generation_prompt: bool, enable_thinking: bool
    ) -> str:
        assert not tokenize
        return render(messages, answering=add_generation_prompt, thinking=enable_thinking)

    def __call__(self, text: str, return_tensors: str, add_special_tokens: bool) -> _Batch:
        assert return_tensors == "pt"
        AutoTokenizer.added.append(add_special_tokens)
        ids = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return _Batch(input_ids=_Tokens([ids]))

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


class AutoModelForCausalLM:
    def __init__(self, dtype: str) -> None:
        self._dtype, self._answered = dtype, 0

    @classmethod
    def from_pretrained(cls, folder: str, torch_dtype: str) -> "AutoModelForCausalLM":
        assert (Path(folder) / "config.json").is_file()
        return cls(torch_dtype)

    def to(self, device: str) -> "AutoModelForCausalLM":
        assert device == "cpu"
        return self

    def eval(self) -> "AutoModelForCausalLM":
        return self

    def generate(self, input_ids: _Tokens, **arguments: Any) -> list[list[int]]:
        self._answered += 1
        given = {**arguments, "add_special_tokens": AutoTokenizer.added[-1], "dtype": self._dtype}
        with open(os.environ["TRANSFORMERS_STANDIN_RECORD"], "a", encoding="utf-8") as record:
            record.write(json.dumps(given) + "\n")
        if os.environ.get("TRANSFORMERS_STANDIN_DIES_AT") == str(self._answered):
            os.kill(os.getpid(), signal.SIGKILL)
        answer = AutoTokenizer.tokenizer.encode(f"answer {self._answered}<|im_end|>").ids
        return [[*input_ids[0], *answer]]


def install(folder: Path) -> Path:
    """Makes a folder for PYTHONPATH that has both libraries."""
    both = {
        "transformers": "AutoModelForCausalLM, AutoTokenizer",
        "torch": "bfloat16, cuda, float16, float32",
    }
    both["torch"] += ", manual_seed, no_grad"
    for name, members in both.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"from standin_transformers import {members}\n")
    return folder


# torch

float32, float16, bfloat16 = "float32", "float16", "bfloat16"
cuda = SimpleNamespace(is_available=lambda: False)


def manual_seed(seed: int) -> None:
    pass


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    yield
