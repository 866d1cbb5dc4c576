"""A model's tokens, read from its tokenizer.json, for engines whose runtime has none or keeps it to itself.

llguidance reads the file; it is needed for grammars anyway, and a tokenizer of its own for each of the two
would have to agree. It is imported when a vocabulary is read.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from exo.chat import Alternative
from exo.errors import EngineFailed

_FILE, _GENERATION, _CONFIG = "tokenizer.json", "generation_config.json", "tokenizer_config.json"
# Special tokens that end an answer, for folders that do not say which does: ChatML, Qwen, Llama 3, Phi,
# Llama 2 and Mistral, Gemma, DeepSeek.
_KNOWN_ENDS = frozenset(
    {
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|end|>",
        "</s>",
        "<end_of_turn>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    }
)


T = TypeVar("T")


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: tuple[_Added, ...] = ()


class _GenerationFile(msgspec.Struct):
    eos_token_id: int | tuple[int, ...] | None = None


class _ConfigFile(msgspec.Struct):
    eos_token: str | Mapping[str, Any] | None = None


class Vocabulary:
    """Text to tokens and back. Make one with `read`."""

    def __init__(self, tokenizer: Any, special: Mapping[int, str], ends: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        """llguidance's. It takes every added token in angle brackets for a special one."""
        self.size: int = tokenizer.vocab_size
        """How many ids there are. A row of logits may be longer: models pad theirs."""
        self.ends = ends
        """Ids that end an answer; never empty."""
        self.special = special
        """Those that are no text, by id."""

    @classmethod
    def read(cls, folder: Path) -> "Vocabulary":
        """Reads the tokenizer.json in `folder`, and what the files beside it say about the end of an answer.

        Those are generation_config.json and tokenizer_config.json, either of which may be missing; if neither
        says, it is the special tokens with a well-known name. Takes about a second for 150 000 tokens.
        Raises `EngineFailed` where there is no tokenizer.json, and for files that cannot be used.
        """
        if not (folder / _FILE).is_file():
            raise EngineFailed(
                f"{folder} has no {_FILE}; put the model's own there, from its original repository."
            )
        from llguidance import LLTokenizer

        added = _decoded(folder / _FILE, _TokenizerFile).added_tokens
        special = {token.id: token.content for token in added if token.special}
        ends = _ends(folder, added)
        try:
            # Anything before the brace, and it is taken for the name of a file.
            text = (folder / _FILE).read_text("utf-8").strip()
            tokenizer = LLTokenizer(text, eos_token=sorted(ends))
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise EngineFailed(f"{folder / _FILE} cannot be used: {reason}") from error
        for id, content in special.items():
            # Numbered with gaps, added tokens would silently be given others than the model's.
            if id >= tokenizer.vocab_size or tokenizer.decode_bytes([id]) != content.encode():
                raise EngineFailed(
                    f"{folder / _FILE} cannot be used: token {id} is not {content!r} when loaded."
                )
        return cls(tokenizer, special, ends)

    @cached_property
    def for_grammars(self) -> Any:
        """llguidance's tokenizer for grammars over these tokens; it knows which of them end an answer. Tags
        such as </tool_call> are text in it, which grammars spell, as they are in llama.cpp's."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Spelled(self)), eos_token=sorted(self.ends))

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of `text`; special tokens written in it are themselves, and none is put before it."""
        # Asked to look for special tokens, it cuts at anything in angle brackets; it finds them anyway.
        return tuple(self.tokenizer.tokenize_str(text))

    def bytes_of(self, id: int, shown: Collection[int] = ()) -> bytes:
        """What a token adds to an answer: nothing if it is a special one, but for those `shown`. Tags such as
        <think>, which tokenizer.json has as added tokens that are not special, are text."""
        return b"" if id in self.special and id not in shown else self.spelled(id)

    def shown(self, tags: Collection[str]) -> frozenset[int]:
        """The special tokens that are such tags."""
        return frozenset(id for id, content in self.special.items() if content in tags)

    def spelled(self, id: int) -> bytes:
        """A token as it is written, special or not. It may begin or end within a UTF-8 character."""
        spelled: bytes = self.tokenizer.decode_bytes([id])
        return spelled

    def alternative(self, id: int, logprob: float) -> Alternative:
        """A token that could have been drawn, as answers report it."""
        spelled = self.spelled(id)
        return Alternative(spelled.decode(errors="replace"), logprob, tuple(spelled))


class _Spelled:
    """A vocabulary as llguidance takes one that it has not read itself."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = min(vocabulary.ends)
        self.tokens = [vocabulary.spelled(id) for id in range(vocabulary.size)]
        self.special_token_ids = sorted(vocabulary.special)
        self._encode = vocabulary.tokenizer.tokenize_bytes

    def __call__(self, text: bytes) -> list[int]:
        tokens: list[int] = self._encode(text)
        return tokens


def _ends(folder: Path, added: Sequence[_Added]) -> frozenset[int]:
    ids: set[int] = set()
    names: Sequence[str] = ()
    if (folder / _GENERATION).is_file():
        listed = _decoded(folder / _GENERATION, _GenerationFile).eos_token_id
        ids.update(() if listed is None else (listed,) if isinstance(listed, int) else listed)
    if (folder / _CONFIG).is_file():
        named = _decoded(folder / _CONFIG, _ConfigFile).eos_token
        names = [str(named["content"]) if isinstance(named, Mapping) else named] if named else ()
    if not ids and not names:
        names = tuple(_KNOWN_ENDS)
    ids |= {token.id for token in added if token.content in names}
    if not ids or min(ids) < 0:
        raise EngineFailed(
            f"{folder / _FILE} has no token that is known to end an answer; "
            f'name it in {folder / _GENERATION}, such as {{"eos_token_id": 2}}.'
        )
    return frozenset(ids)


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (ValueError, RecursionError) as error:
        raise EngineFailed(f"{path} cannot be used: {error}") from error
