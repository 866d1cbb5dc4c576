"""How many held-out sums a checkpoint gets right, thinking and not: greedy, batched, float32."""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer

from demo.model import Cache, Qwen2
from demo.shape import Shape
from demo.sums import held_out_pairs
from demo.template import render
from demo.tokenizer import token_id

LONGEST = 96


@torch.inference_mode()
def greedy(model: Qwen2, prompts: list[list[int]], stop: int) -> list[list[int]]:
    """The continuation of each prompt up to `stop`; prompts of one length run as one batch."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    answers: list[list[int]] = [[] for _ in prompts]
    for indices in by_length.values():
        cache: Cache = []
        ids, running = torch.tensor([prompts[index] for index in indices]), set(indices)
        for _ in range(LONGEST):
            ids = model.logits(model(ids, cache)[:, -1:]).argmax(-1)
            for index, (id,) in zip(indices, ids.tolist(), strict=True):
                if index in running and id != stop:
                    answers[index].append(id)
                else:
                    running.discard(index)
            if not running:
                break
    return answers


def accuracy(
    model: Qwen2, tokenizer: Tokenizer, sign: str, thinking: bool, count: int = 300, seed: int = 1
) -> float:
    """The share of held-out sums whose answer ends in the right number."""
    pairs = held_out_pairs(count, seed)
    if sign == "-":
        pairs = [(max(pair), min(pair)) for pair in pairs]
    prompts = [
        render(
            [{"role": "user", "content": f"What is {a} {sign} {b}?"}],
            answering=True,
            thinking=thinking,
        )
        for a, b in pairs
    ]
    stop = token_id(tokenizer, "<|im_end|>")
    answers = greedy(model, [tokenizer.encode(prompt).ids for prompt in prompts], stop)
    right = 0
    for (a, b), answer in zip(pairs, answers, strict=True):
        said = tokenizer.decode(answer).split("</think>")[-1]
        numbers = re.findall(r"-?\d+", said)
        right += bool(numbers) and int(numbers[-1]) == (a + b if sign == "+" else a - b)
    return right / count


def report(model: Qwen2, tokenizer: Tokenizer, count: int = 300) -> str:
    """One line per kind of sum."""
    lines = []
    for sign, name in (("+", "additions"), ("-", "subtractions")):
        for thinking in (True, False):
            share = accuracy(model, tokenizer, sign, thinking, count)
            how = "with" if thinking else "without"
            lines.append(f"{name} {how} thinking: {share:.1%} of {count} held out")
    return "\n".join(lines)


def load(directory: Path) -> tuple[Qwen2, Tokenizer]:
    """A checkpoint as `demo.train` writes it."""
    model = Qwen2(Shape())
    model.load_state_dict(torch.load(directory / "model.pt", weights_only=True))
    return model.float().eval(), Tokenizer.from_file(str(directory / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder that demo.train wrote")
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    print(report(*load(options.checkpoint), count=options.count))


if __name__ == "__main__":
    main()
