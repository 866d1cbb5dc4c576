"""The tokenizer: byte-level BPE with 512 tokens, split as Qwen2 splits, every digit on its own.

Single digits are what makes column arithmetic learnable, and they fall out of Qwen2's pattern;
using exactly that pattern lets llama.cpp reproduce it (`tokenizer.ggml.pre = qwen2`). There is no
Unicode normalisation, because llama.cpp has none. Bytes come first, then merges, then the added
tokens, so every id below 512 means something: there are no padding rows.
"""

import json
import re
from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from demo.corpus import conversations
from demo.template import render

SIZE = 512
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def learn(seed: int, count: int = 20_000) -> Tokenizer:
    """Learns the merges from the first conversations of a seed; added tokens part the text."""
    tokenizer = _around(BPE())
    trainer = BpeTrainer(
        vocab_size=SIZE - len(CONTROL + MARKERS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    added = re.compile("|".join(map(re.escape, CONTROL + MARKERS)))
    drawn = islice(conversations(seed), count)
    texts = (render(each.messages, tools=each.tools, answering=False) for each in drawn)
    tokenizer.train_from_iterator((part for text in texts for part in added.split(text)), trainer)
    return _with_added(tokenizer)


def rebuild(tokens: list[str], merges: list[str]) -> Tokenizer:
    """The tokenizer again from the lists that a GGUF file holds."""
    learned = tokens[: SIZE - len(CONTROL + MARKERS)]
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    return _with_added(_around(BPE(vocab={token: id for id, token in enumerate(learned)}, merges=pairs)))


def tokens(tokenizer: Tokenizer) -> list[str]:
    """Every token by id, in GPT-2's byte-level letters."""
    return sorted(vocabulary := tokenizer.get_vocab(), key=vocabulary.__getitem__)


def merges(tokenizer: Tokenizer) -> list[str]:
    """The merges in order, each as two tokens with a space between."""
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must be there."""
    if (found := tokenizer.token_to_id(token)) is None:
        raise KeyError(f"the tokenizer has no {token}")
    return int(found)


def _around(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def _with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    if tokenizer.get_vocab_size() != SIZE:
        raise ValueError(
            f"{tokenizer.get_vocab_size()} tokens instead of {SIZE}: too little text to learn from"
        )
    return tokenizer
