"""Trains the toy from nothing: `python -m demo.train --seed 0 --out DIR`, 100 minutes on a core.

Conversations are packed end to end into rows, with nothing between them: to the model a row is one
long chat, so it learns to find its place deep in a context. Short rows are cheap and come first;
the second stage mixes in rows as long as the whole context, because attention that has never looked
back so far falls apart there. Only what the assistant says counts towards the loss. The same seed
on the same machine gives the same weights.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.utils.deterministic
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from demo import tokenizer as tokenizers
from demo.corpus import Conversation, conversations
from demo.evaluate import load, report
from demo.model import Qwen2
from demo.muon import Muon
from demo.shape import Shape
from demo.template import render

STEP_TOKENS = 4608  # however long the rows are
MUON_RATE, ADAM_RATE = 0.02, 0.004
WARM_UP = 40


@dataclass(frozen=True)
class Stage:
    """Some steps on text of their own; the learning rates warm up, hold, and fall to nothing."""

    steps: int
    peak: float  # of the learning rates
    falling: float  # over this share of the steps
    length: Callable[[int], int]  # of a step's rows
    mix: str = "broad"  # of subjects

    def rate(self, step: int) -> float:
        left = (self.steps - step) / (self.steps * self.falling)
        return self.peak * min(1.0, (step + 1) / WARM_UP, left)


def short_then_long(step: int) -> int:
    return 384 if step < 1980 else 1152


def mostly_short(step: int) -> int:
    return 2048 if step % 8 == 7 else 384


STAGES = (
    Stage(2200, peak=1.0, falling=0.6, length=short_then_long),
    Stage(1200, peak=0.6, falling=1.0, length=mostly_short),
    Stage(1000, peak=0.5, falling=1.0, length=mostly_short, mix="weak spots"),
)


class Packer:
    """Packs whole conversations into rows of any length, each token with its weight in the loss."""

    def __init__(self, tokenizer: Tokenizer, corpus: Iterator[Conversation]) -> None:
        self.tokenizer, self.corpus = tokenizer, corpus
        self.waiting: list[tuple[list[int], list[float]]] = []
        self.opening = tokenizer.encode("<|im_start|>assistant\n").ids
        self.no_thought = tokenizer.encode("<think>\n\n</think>\n\n").ids
        self.end = tokenizers.token_id(tokenizer, "<|im_end|>")

    def rows(self, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, the token after each, and the weight of that token."""
        packed = [self._row(length + 1) for _ in range(count)]
        ids, weights = (
            torch.tensor([row[0] for row in packed]),
            torch.tensor([row[1] for row in packed]),
        )
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]

    def _row(self, length: int) -> tuple[list[int], list[float]]:
        """The first that fit, until little room is left; what no row could hold is dropped."""
        self.waiting = [each for each in self.waiting if len(each[0]) <= length]
        while len(self.waiting) < 64:
            self._draw(64)
        row: list[int] = []
        weights: list[float] = []
        kept = []
        for ids, values in self.waiting:
            if len(row) + len(ids) <= length:
                row, weights = row + ids, weights + values
            else:
                kept.append((ids, values))
        self.waiting = kept
        room = length - len(row)
        return row + [self.end] * room, weights + [0.0] * room

    def _draw(self, count: int) -> None:
        drawn = list(itertools.islice(self.corpus, count))
        texts = [render(each.messages, tools=each.tools, answering=False) for each in drawn]
        for conversation, encoded in zip(drawn, self.tokenizer.encode_batch(texts), strict=True):
            self.waiting.append((encoded.ids, self._weigh(encoded.ids, conversation.thinking)))

    def _weigh(self, ids: list[int], thinking: bool) -> list[float]:
        """1 for what the assistant says, up to and with the end of its turn.

        The first token of an earlier answer is left out: it stands where, in a live turn, the
        thought begins. An empty thought is left out where it is part of the question.
        """
        weights = [0.0] * len(ids)
        openings = [i for i in range(len(ids)) if ids[i : i + len(self.opening)] == self.opening]
        for opening in openings:
            start = opening + len(self.opening)
            if opening != openings[-1]:
                start += 1
            elif not thinking:
                start += len(self.no_thought)
            end = ids.index(self.end, start - 1)
            weights[start : end + 1] = [1.0] * (end + 1 - start)
        return weights


def train(seed: int, out: Path, first: int) -> None:
    """Runs the stages from `first` on, each from the rounded weights that the one before left."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    tokenizer = tokenizers.learn(seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    model = Qwen2(Shape()) if first == 0 else load(out)[0]
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    for index in range(first, len(STAGES)):
        print(f"stage {index}: {STAGES[index].steps} steps of {STEP_TOKENS} tokens", flush=True)
        drawn = conversations(seed + index, STAGES[index].mix)
        run(STAGES[index], model, Packer(tokenizer, drawn), out)
        print(report(rounded(model), tokenizer), flush=True)


def run(stage: Stage, model: Qwen2, packer: Packer, out: Path) -> None:
    """One stage, with optimisers of its own; saves the weights on the way and at the end."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    started, smooth = time.monotonic(), math.nan
    for step in range(stage.steps):
        length = stage.length(step)
        inputs, targets, weights = packer.rows(STEP_TOKENS // length, length)
        said = weights > 0
        loss = F.cross_entropy(model.logits(model(inputs)[said]), targets[said])
        loss.backward()  # type: ignore[no-untyped-call]
        muon.step(MUON_RATE * stage.rate(step))
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * stage.rate(step)
        adam.step()
        model.zero_grad()
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        if step % 20 == 19:
            spent = (time.monotonic() - started) / 60
            left = spent / (step + 1) * (stage.steps - step - 1)
            when = f"{spent:5.1f} min, {left:5.1f} left"
            print(f"step {step + 1:5} loss {smooth:.4f} {when}", flush=True)
        if step % 200 == 199 or step == stage.steps - 1:
            save(model, out)


def save(model: Qwen2, out: Path) -> None:
    """Writes the weights as bfloat16, in one move so that a reader never sees half of them."""
    part = out / "model.pt.part"
    torch.save({name: weight.bfloat16() for name, weight in model.state_dict().items()}, part)
    part.replace(out / "model.pt")


def rounded(model: Qwen2) -> Qwen2:
    """The model as it ships: weights rounded to bfloat16, computed in float32."""
    return model.bfloat16().float().eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", type=int, default=0, help="go on in OUT from this stage")
    parser.add_argument("--threads", type=int, default=1, help="another number gives other roundings")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.seed, options.out, options.stage)


if __name__ == "__main__":
    main()
