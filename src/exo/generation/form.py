"""Keeps an answer to a form, for engines that draw tokens from logits: which tokens may come next. For an
engine that sees to that itself, whether it did.

This module imports llguidance and numpy; those who may do without import it when they need it.
"""

import re
from functools import cache

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from exo.errors import BadRequest, EngineFailed
from exo.generation.sampler import Allowed
from exo.generation.vocabulary import Vocabulary

# llguidance's words for what has come to its limits, which may show behind some tokens only.
_TOO_COMPLEX = re.compile(r"[Tt]oo (many|large|complex)\b.*\blimit")


class Form:
    """A grammar, and how far the answer has come in it. Raises `BadRequest` for one that nothing can keep
    to."""

    def __init__(self, form: str, vocabulary: Vocabulary) -> None:
        lark = form if form.startswith("%llguidance") else _from_gbnf(form)
        if why := LLMatcher.validate_grammar(lark, vocabulary.for_grammars):
            raise BadRequest(f"the grammar cannot be enforced: {why.splitlines()[0]}", param="grammar")
        self._size = vocabulary.size
        self._matcher = LLMatcher(vocabulary.for_grammars, lark, log_level=0)
        try:
            self.allowed()
        except EngineFailed as error:
            # One that never ends is only found where the first token is looked for.
            why = "the grammar cannot be enforced: no text keeps to it"
            raise BadRequest(why, param="grammar") from error

    def allowed(self) -> Allowed:
        """Which tokens may come next, the ends of the answer among them where it is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._size, bitorder="little").astype(np.bool_)

    def completed_by(self, token: int) -> bool:
        """Takes the next token; True if nothing can follow it."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        matcher = self._matcher
        if matcher.is_error():
            reason = str(matcher.get_error()).splitlines()[0]
        elif matcher.is_stopped() and not matcher.is_accepting():
            reason = str(matcher.stop_reason())
        else:
            return
        if _TOO_COMPLEX.search(reason):
            raise BadRequest(f"the grammar is too large to be followed: {reason}", param="grammar")
        raise EngineFailed(f"the grammar could not be followed any further: {reason}")


class Kept:
    """Whether a text keeps to a form in llguidance's Lark, while it arrives: 4 µs a token."""

    def __init__(self, form: str) -> None:
        self._matcher = LLMatcher(_bytes(), form, log_level=0)

    def takes(self, text: str) -> bool:
        """Whether the form allows for `text` to come next."""
        tokens = list(text.encode())
        return bool(self._matcher.try_consume_tokens(tokens) == len(tokens))

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_accepting())


class _Bytes:
    """A vocabulary of all bytes."""

    eos_token_id, bos_token_id = 256, None
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _from_gbnf(form: str) -> str:
    try:
        lark: str = gbnf_to_lark(form)
    except Exception as error:  # the converter raises no kind of its own for most of what it refuses
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadRequest(f"the grammar is none that can be enforced: {reason}", param="grammar") from error
    return lark
