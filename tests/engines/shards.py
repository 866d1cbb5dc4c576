"""Shards in this process, and what tests ask of them: the bundled model's tokens, logits, greedy answers."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exo.cards import Span
from exo.chat import ChatRequest, Message
from exo.generation.templates import ChatTemplate
from exo.shards.shard import Hidden, Logits, Opener, Shard
from exo.store.catalogue import BUNDLED
from tests.engines import numpy_shard

DEMO = BUNDLED / "exo-demo"
TOKENIZER: Any = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
QUESTIONS = ["What is 145 + 278?", "Hello", "Count from 1 to 9.", "Is 17 a prime number? Explain."]
SPLITS = [(0, 6), (0, 2, 6), (0, 1, 3, 6)]
SMALL: dict[str, Any] = {"layers": 4, "width": 64, "intermediate": 96, "heads": 4, "kv_heads": 2}
FEW_STEPS = ((8, 3), (1, 1))
"""Of tinygrad's: fewer and smaller than those that ship, as each is compiled."""
LLAMA_3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_TEMPLATE = ChatTemplate((DEMO / "chat_template.jinja").read_text())
_ENDS = {TOKENIZER.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")}


def opened(opener: Opener, folder: Path, start: int, end: int, **options: Any) -> Shard:
    given: dict[str, Any] = {
        "ends": start == 0,
        "slots": 2,
        "context": 512,
        "dtype": "auto",
        "threads": 1,
        "cache": None,
        "progress": lambda done: None,
        **options,
    }
    return opener(folder, Span(start, end), **given)


def chain(opener: Opener, folder: Path, cuts: Sequence[int], **options: Any) -> list[Shard]:
    return [opened(opener, folder, *pair, **options) for pair in itertools.pairwise(cuts)]


def in_numpy(folder: Path, start: int = 0, end: int = SMALL["layers"]) -> Shard:
    return opened(numpy_shard.open_shard, folder, start, end)


def ask(shards: Sequence[Shard], tokens: Sequence[int], slot: int = 0, position: int = 0) -> Logits:
    """The last token's logits, as a coordinator gets them: of a whole model in one, else around the star."""
    if len(shards) == 1:
        logits = shards[0].read(slot, position, tokens, wanted=True)
        assert logits is not None
        return logits
    return shards[0].logits(_through(shards, slot, position, tokens))


def greedy(shards: Sequence[Shard], prompt: Sequence[int], *, slot: int = 0, most: int = 60) -> list[int]:
    """What follows the prompt, which is read in two chunks."""
    half = len(prompt) // 2
    ask(shards, prompt[:half], slot)
    logits = ask(shards, prompt[half:], slot, half)
    tokens: list[int] = []
    while (token := int(logits.argmax())) not in _ENDS and len(tokens) < most:
        tokens.append(token)
        logits = ask(shards, [token], slot, len(prompt) + len(tokens) - 1)
    return tokens


def rendered(question: str) -> str:
    return _TEMPLATE.render(ChatRequest(model="exo-demo", messages=(Message("user", question),))).prompt


def ids(question: str) -> list[int]:
    encoded: list[int] = TOKENIZER.encode(rendered(question), add_special_tokens=False).ids
    return encoded


def _through(shards: Sequence[Shard], slot: int, position: int, tokens: Sequence[int]) -> Hidden:
    hidden = shards[0].embed(tokens)
    for shard in shards:
        hidden = shard.forward(slot, position, hidden)
    return hidden
