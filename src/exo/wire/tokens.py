"""Tokens of a text and text of tokens, without I/O: a server's side, and a client's.

Three dialects meet here. The first exo had `/v1/chat/token/encode`; llama.cpp's server and vLLM both have
`/tokenize` and `/detokenize`, with other keys. Those two are told apart by what a body names the text
(`content` or `prompt`), and an answer has the keys of both, as neither has one that the other means something
else by. Keys and answers are those of llama.cpp's server as it was tried (xllamacpp 2026.10), of vLLM's
protocol classes, and of the first exo's code.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from exo.chat import ChatRequest
from exo.engine import SpellRequest, spelled
from exo.errors import BadRequest, EngineFailed
from exo.wire import openai
from exo.wire.json import Reader, agreed
from exo.wire.openai.errors import decode_error_event
from exo.wire.openai.request_types import ChatBody, ModelName, Sent, TokenId

Spelling: TypeAlias = str | tuple[int, ...]
"""A token as llama.cpp's server shows it: its text, or its bytes where those are no whole characters."""


class TokenizeTextBody(Sent, frozen=True):
    """POST /tokenize with a text: llama.cpp's `content`, or vLLM's `prompt`.

    What the model begins every text with is put first with `add_special`, or `add_special_tokens`; without
    them, as in those servers, before a `prompt` and not before a `content`.
    """

    model: ModelName | None = None
    content: str | None = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: (
        Annotated[Literal[True], Meta(description="special tokens written in a text are read as themselves")]
        | None
    ) = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChatBody(ChatBody, frozen=True, kw_only=True):
    """POST /tokenize with a conversation: beside it all that /v1/chat/completions takes, of which counts what
    the prompt depends on."""

    with_pieces: bool | None = None
    return_token_strs: bool | None = None
    add_special: Annotated[None, Meta(description="a conversation begins as the model reads it")] = None
    add_special_tokens: Annotated[None, Meta(description="a conversation begins as the model reads it")] = (
        None
    )
    content: Annotated[None, Meta(description="give a text or messages")] = None
    prompt: Annotated[None, Meta(description="give a text or messages")] = None


class DetokenizeBody(Sent, frozen=True):
    """POST /detokenize. Of our own is `with_pieces`: each token's text besides."""

    tokens: list[TokenId]
    model: ModelName | None = None
    with_pieces: bool | None = None


class ShownToken(Struct, frozen=True):
    id: int
    piece: Spelling


class TokenizeAnswer(Struct, frozen=True, kw_only=True):
    """`max_model_len` is the model's context, null where that is not known here, and `token_strs` only there
    if it was asked for."""

    model: str
    tokens: tuple[int | ShownToken, ...]
    count: int
    max_model_len: int | None
    token_strs: tuple[str, ...] | None = None


class DetokenizeAnswer(Struct, frozen=True, kw_only=True):
    """`content` and `prompt` are the same text; U+FFFD in it is what is no whole character."""

    model: str
    content: str
    prompt: str
    pieces: tuple[Spelling, ...] | UnsetType = UNSET


class EncodedChat(Struct, frozen=True, kw_only=True):
    """The answer of /v1/chat/token/encode. `length` is in characters of `encoded_prompt`, which is the tokens
    in writing."""

    length: int
    num_tokens: int
    encoded_tokens: tuple[int, ...]
    encoded_prompt: str


# A server's side


class TokenizeCall(Struct, frozen=True):
    """`begin` is as in `Tokenizer.tokens`. `pieces` are wanted with the tokens, `strings` beside them."""

    request: ChatRequest
    begin: bool = True
    pieces: bool = False
    strings: bool = False


class DetokenizeCall(Struct, frozen=True):
    request: SpellRequest
    pieces: bool


class _Peeked(Struct):
    messages: msgspec.Raw | UnsetType = UNSET


_CHAT, _TEXT, _TOKENS = Reader(TokenizeChatBody), Reader(TokenizeTextBody), Reader(DetokenizeBody)


def decode_tokenize(body: bytes, *, id: str) -> TokenizeCall:
    """Raises `BadRequest` naming the key at fault, and nothing else."""
    if not _has_messages(body):
        return _text_call(_TEXT.read(body), id)
    asked = _CHAT.read(body)
    chat = ChatBody(**{name: getattr(asked, name) for name in ChatBody.__struct_fields__})
    call = openai.decode_chat(msgspec.json.encode(chat), id=id)
    return TokenizeCall(call.request, pieces=bool(asked.with_pieces), strings=bool(asked.return_token_strs))


def decode_detokenize(body: bytes, *, id: str) -> DetokenizeCall:
    """Raises as `decode_tokenize` does."""
    asked = _TOKENS.read(body)
    request = SpellRequest(model=asked.model or "", tokens=tuple(asked.tokens), id=id)
    return DetokenizeCall(request, bool(asked.with_pieces))


def _has_messages(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_Peeked).messages is not UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # What is wrong with it is said by whoever reads it in earnest.
        return False


def _text_call(asked: TokenizeTextBody, id: str) -> TokenizeCall:
    text = agreed({"content": asked.content, "prompt": asked.prompt})
    if text is None:
        raise BadRequest("content is required, or prompt, or messages", param="content")
    begin = agreed({"add_special": asked.add_special, "add_special_tokens": asked.add_special_tokens})
    return TokenizeCall(
        ChatRequest(id=id, model=asked.model or "", prompt=text),
        begin=asked.prompt is not None if begin is None else begin,
        pieces=bool(asked.with_pieces),
        strings=bool(asked.return_token_strs),
    )


def tokenize_answer(
    call: TokenizeCall, context: int, tokens: Sequence[int], pieces: Sequence[bytes] = ()
) -> bytes:
    """`context` is the model's, 0 where that is not known; `pieces` are those of the tokens, where the call
    wants them in whatever form."""
    shown = tuple(map(ShownToken, tokens, map(_shown, pieces))) if call.pieces else tuple(tokens)
    return msgspec.json.encode(
        TokenizeAnswer(
            model=call.request.model,
            tokens=shown,
            count=len(tokens),
            max_model_len=context or None,
            token_strs=tuple(spelled([piece]) for piece in pieces) if call.strings else None,
        )
    )


def detokenize_answer(call: DetokenizeCall, pieces: Sequence[bytes]) -> bytes:
    text = spelled(pieces)
    answer = DetokenizeAnswer(
        model=call.request.model,
        content=text,
        prompt=text,
        pieces=tuple(map(_shown, pieces)) if call.pieces else UNSET,
    )
    return msgspec.json.encode(answer)


def encoded_answer(tokens: Sequence[int], pieces: Sequence[bytes]) -> bytes:
    text = spelled(pieces)
    return msgspec.json.encode(
        EncodedChat(
            length=len(text), num_tokens=len(tokens), encoded_tokens=tuple(tokens), encoded_prompt=text
        )
    )


def _shown(piece: bytes) -> Spelling:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return tuple(piece)


# A client's side


class _Told(Struct):
    tokens: tuple[int, ...] | None = None
    count: int | None = None
    content: str | None = None
    prompt: str | None = None
    pieces: tuple[Spelling, ...] | None = None
    error: Any = None


def encode_tokenize(request: ChatRequest, *, begin: bool) -> bytes:
    """The body for /tokenize; a text is in it under the names of both dialects, as each kind of server reads
    its own and leaves the other. Its answer is read by `decode_tokens`."""
    if request.prompt is None:
        return openai.encode_chat(request)
    return msgspec.json.encode(
        TokenizeTextBody(
            model=request.model or None,
            content=request.prompt,
            prompt=request.prompt,
            add_special=begin,
            add_special_tokens=begin,
        )
    )


def decode_tokens(body: bytes, request: ChatRequest) -> tuple[int, ...]:
    """The tokens of an answer to `encode_tokenize`.

    Raises what the server failed with after its answer had begun, `EngineFailed` for what is no such answer,
    and `BadRequest` for a conversation that the server has overlooked, as llama.cpp's reads texts only.
    """
    told = _told(body)
    if told.tokens is None:
        raise EngineFailed("the server's answer has no tokens")
    if request.prompt is None and told.count is None:
        raise BadRequest(
            "the server that has this model tells the tokens of texts only, not of conversations; ask for "
            "those of a prompt",
            param="messages",
        )
    return told.tokens


def encode_spell(request: SpellRequest) -> bytes:
    """The body for /detokenize; its answer is read by `decode_pieces`."""
    body = DetokenizeBody(model=request.model or None, tokens=list(request.tokens), with_pieces=True)
    return msgspec.json.encode(body)


def decode_pieces(body: bytes) -> tuple[bytes, ...]:
    """What is written for each token, or the whole text as one where the server says no more. Raises as
    `decode_tokens` does."""
    told = _told(body)
    if told.pieces is not None:
        return tuple(_bytes(piece) for piece in told.pieces)
    text = told.prompt if told.content is None else told.content
    if text is None:
        raise EngineFailed("the server's answer has no text")
    return (text.encode(errors="replace"),)


def _bytes(piece: Spelling) -> bytes:
    if isinstance(piece, str):
        return piece.encode(errors="replace")
    try:
        return bytes(piece)
    except ValueError as error:
        raise EngineFailed(f"the server's answer has bytes that are none: {error}") from None


def _told(body: bytes) -> _Told:
    try:
        told = msgspec.json.decode(body, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFailed(f"the server's answer about tokens cannot be read: {error}") from None
    if told.error is not None:
        raise decode_error_event(told.error)
    return told
