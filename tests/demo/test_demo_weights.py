"""The shipped weights, run by a second, plain numpy Qwen2: they add pairs they have never seen.

Torch trained them and llama.cpp serves them; this reads only the shipped Hugging Face folder, so a
wrong `config.json` fails here too.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.export import Package, from_hf
from demo.sums import held_out_pairs
from demo.template import render

SHIPPED = Path(__file__).parents[2] / "src/exo/store/bundled/exo-demo"
Floats = NDArray[np.float32]


class NumpyQwen2:
    def __init__(self, package: Package) -> None:
        self.shape = package.shape
        self.weights = {
            name: (bits.astype(np.uint32) << 16).view(np.float32) for name, bits in package.weights.items()
        }

    def next(self, ids: list[int]) -> int:
        """The likeliest token after these."""
        x = self.weights["model.embed_tokens.weight"][ids]
        for index in range(self.shape.layers):
            x = x + self.attend(self.norm(x, f"layers.{index}.input_layernorm"), index)
            y = self.norm(x, f"layers.{index}.post_attention_layernorm")
            gate = self.linear(y, f"layers.{index}.mlp.gate_proj")
            up = self.linear(y, f"layers.{index}.mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, f"layers.{index}.mlp.down_proj")
        last = self.norm(x[-1:], "norm")
        return int(np.argmax(last @ self.weights["model.embed_tokens.weight"].T))

    def attend(self, x: Floats, index: int) -> Floats:
        name, head, length = f"layers.{index}.self_attn", self.shape.head, len(x)
        q, k, v = (
            self.linear(x, f"{name}.{part}_proj").reshape(length, -1, head).swapaxes(0, 1) for part in "qkv"
        )
        group = self.shape.heads // self.shape.kv_heads
        q, k, v = self.rotate(q), self.rotate(k).repeat(group, 0), v.repeat(group, 0)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(np.float32(head))
        scores += np.triu(np.full((length, length), -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        return self.linear(mixed.swapaxes(0, 1).reshape(length, -1), f"{name}.o_proj")

    def rotate(self, x: Floats) -> Floats:
        half = self.shape.head // 2
        frequency = self.shape.rope_theta ** (-np.arange(half) / half)
        angle = np.outer(np.arange(x.shape[1]), frequency).astype(np.float32)
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), -1)

    def norm(self, x: Floats, name: str) -> Floats:
        root = np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(self.shape.norm_eps))
        scaled: Floats = x / root * self.weights[f"model.{name}.weight"]
        return scaled

    def linear(self, x: Floats, name: str) -> Floats:
        bias = self.weights.get(f"model.{name}.bias", np.float32(0))
        return x @ self.weights[f"model.{name}.weight"].T + bias


@pytest.fixture(scope="module")
def package() -> Package:
    return from_hf(SHIPPED)


@pytest.fixture(scope="module")
def model(package: Package) -> NumpyQwen2:
    return NumpyQwen2(package)


def say(model: NumpyQwen2, package: Package, question: str, thinking: bool) -> str:
    prompt = render([{"role": "user", "content": question}], answering=True, thinking=thinking)
    ids = package.tokenizer.encode(prompt).ids
    stop = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    start = len(ids)
    while (following := model.next(ids)) != stop and len(ids) < start + 120:
        ids.append(following)
    return package.tokenizer.decode(ids[start:])


@pytest.mark.parametrize("thinking", [True, False])
def test_it_adds_what_it_has_never_seen(model: NumpyQwen2, package: Package, thinking: bool) -> None:
    pairs = held_out_pairs(12, seed=9)
    said = [say(model, package, f"What is {a} + {b}?", thinking) for a, b in pairs]
    right = [int(re.findall(r"\d+", text)[-1]) == a + b for text, (a, b) in zip(said, pairs, strict=True)]
    assert sum(right) >= 11, said


def test_it_works_out_the_benchmark_sum(model: NumpyQwen2, package: Package) -> None:
    said = say(model, package, "What is 145 + 278?", thinking=True)
    assert said == "<think>\n5+8=13\n4+7+1=12\n1+2+1=4\n</think>\n\n145 + 278 = 423"


@pytest.mark.parametrize("thinking", [True, False])
def test_it_stops_where_it_was_told_to(model: NumpyQwen2, package: Package, thinking: bool) -> None:
    said = say(model, package, "Count from 3 to 19.", thinking)
    assert said.endswith("3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19")


def test_it_answers_the_benchmark(model: NumpyQwen2, package: Package) -> None:
    said = say(model, package, "Is 17 a prime number? Explain.", thinking=False)
    assert said == "Yes. 17 is prime: only 1 and 17 divide it."


def test_it_says_what_it_is(model: NumpyQwen2, package: Package) -> None:
    assert "toy model" in say(model, package, "Who are you?", thinking=False)
