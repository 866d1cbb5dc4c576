"""Chooses the next token from logits, for engines whose runtime does not, or not so.

The steps and their order are those of llama.cpp's server, so that a model behaves alike on every engine:
bias, penalties, what a grammar allows, top-k, top-p, min-p, temperature, and a draw. (llama.cpp applies the
grammar to the token drawn first, and only draws again under it if that one is refused; the outcome is a
token that is allowed either way.)

This module imports numpy; those who may do without import it when they need it.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from exo.chat import Sampling
from exo.errors import BadRequest, EngineFailed

Logits: TypeAlias = NDArray[np.float32]
Allowed: TypeAlias = NDArray[np.bool_]

WINDOW = 64
"""How many of the latest tokens the penalties look at."""


class Settled(msgspec.Struct, frozen=True):
    """How tokens are drawn, with nothing left open: what holds where neither a request nor a model's card
    says otherwise is llama.cpp's own."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def of(cls, sampling: Sampling) -> "Settled":
        given = {name: getattr(sampling, name) for name in cls.__struct_fields__}
        return cls(**{name: value for name, value in given.items() if value is not None})


class Sampler:
    """Draws the tokens of one answer, and remembers them for the penalties.

    A temperature of 0 or a top_k of 1 is greedy: the likeliest token, the lowest id among equals. With a
    seed, equal logits give equal tokens; without one, each answer differs. `vocabulary` is how many tokens
    there are, `prompt` what the penalties see besides the answer. BadRequest for a bias of no token.
    """

    def __init__(self, sampling: Sampling, *, vocabulary: int, prompt: Sequence[int] = ()) -> None:
        for token in sampling.logit_bias:
            if not 0 <= token < vocabulary:
                raise BadRequest(
                    f"token {token} is not in the vocabulary, which has {vocabulary}", param="logit_bias"
                )
        self._settled = Settled.of(sampling)
        self._greedy = self._settled.temperature == 0 or self._settled.top_k == 1
        self._biased = np.array(list(sampling.logit_bias), np.int64)
        self._biases = np.array(list(sampling.logit_bias.values()), np.float32)
        self._recent = deque(prompt, WINDOW)
        # A seed may be any 64-bit number; the generator wants no negative ones.
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed % (1 << 64))

    def draw(self, logits: Logits, allowed: Allowed | None = None) -> int:
        """The next token of those that are `allowed` (all, if None). `logits` has shape (vocabulary,) and is
        left as it is; -inf in it forbids a token, too. Raises `EngineFailed` for logits that are no numbers,
        or that leave no token.
        """
        check(logits)
        adjusted = self._penalised(logits)
        if allowed is not None:
            adjusted = np.where(allowed, adjusted, np.float32(-np.inf))
        token = int(adjusted.argmax())
        if adjusted[token] == -np.inf:
            raise EngineFailed("no token is left to draw: all that are allowed have a likelihood of zero")
        if not self._greedy:
            token = self._chance(adjusted)
        self._recent.append(token)
        return token

    def _penalised(self, logits: Logits) -> Logits:
        settled, adjusted = self._settled, logits.astype(np.float32)
        adjusted[self._biased] += self._biases
        if self._recent:
            counts = Counter(self._recent)
            seen = np.array(list(counts), np.int64)
            times = np.array(list(counts.values()), np.float32)
            repeat = np.float32(settled.repeat_penalty)
            held = adjusted[seen]
            held = np.where(held > 0, held / repeat, held * repeat)
            adjusted[seen] = held - (times * settled.frequency_penalty + settled.presence_penalty)
        return adjusted

    def _chance(self, logits: Logits) -> int:
        """A token drawn from what the filters leave."""
        settled = self._settled
        top_k, top_p, min_p = settled.top_k, settled.top_p, settled.min_p
        if 0 < top_k < logits.size:
            kept = np.argpartition(-logits, top_k - 1)[:top_k]
        else:
            kept = np.arange(logits.size)
        kept = kept[logits[kept] > -np.inf]
        # The likeliest first, the lowest id among equals.
        kept = kept[np.lexsort((kept, -logits[kept]))]
        odds = _softmax(logits[kept])
        if top_p < 1:
            # The fewest that together reach top_p.
            count = int(np.searchsorted(np.cumsum(odds), top_p)) + 1
            kept, odds = kept[:count], odds[:count]
        if min_p > 0:
            kept = kept[odds >= min_p * odds[0]]
        thresholds = np.cumsum(_softmax(logits[kept], settled.temperature))
        at = int(np.searchsorted(thresholds, self._random.random() * thresholds[-1], side="right"))
        return int(kept[min(at, kept.size - 1)])  # rounding may take it past the last one


def logprobs(logits: Logits, chosen: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The natural logarithm of the chosen token's likelihood, before any bias or filter, and the `top`
    likeliest tokens with theirs, best first. Raises `EngineFailed` for logits that are no numbers."""
    check(logits)
    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    top = min(top, wide.size)
    # By the logits themselves: some that differ give the same logarithm.
    best = np.argpartition(-logits, top - 1)[:top] if top else np.array([], np.int64)
    best = best[np.lexsort((best, -logits[best]))]
    best = best[logits[best] > -np.inf]
    return float(wide[chosen]), [(int(token), float(wide[token])) for token in best]


def check(logits: Logits) -> None:
    """Raises `EngineFailed` unless the largest of `logits` is a number; the others may be -inf."""
    if not np.isfinite(logits.max()):  # which is NaN where any is
        raise EngineFailed(
            "the model's output is no numbers (NaN or infinity): a numeric overflow in the engine, or a "
            "damaged model file. Try another quantisation or release of it."
        )


def _softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Of logits whose first is the largest."""
    with np.errstate(over="ignore"):  # by a temperature near zero: to -inf, which is a likelihood of zero
        odds = np.exp((logits.astype(np.float64) - float(logits[0])) / temperature)
    shares: NDArray[np.float64] = odds / odds.sum()
    return shares
