"""Where a conversation could have ended before: what another request may have had read already. Pure.

Tokens are estimated, as no tokenizer is at hand: four bytes each, and four more around every message.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec

from exo.chat import ChatRequest, Message

_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4
"""What a template writes around a message."""

_FIRST_CUT = 1024
"""Bytes of a raw prompt up to its first cut; each further one is at twice as many."""


class Beginning(msgspec.Struct, frozen=True):
    """A part of a conversation from its start on: a hash of it, of 63 bits, and its tokens."""

    hash: int
    tokens: int


class Conversation(msgspec.Struct, frozen=True):
    """All `tokens` that have to be read before the answer, or the rest of it, is written, and `beginnings`,
    the longest last."""

    tokens: int
    beginnings: tuple[Beginning, ...]


def conversation(request: ChatRequest) -> Conversation:
    """It is cut at the end of each message, from its first user's on; a raw prompt after 1024, 2048, 4096 …
    bytes. The hashes are the same in every process and for every model."""
    if request.prompt is not None:
        prompt = request.prompt.encode()
        return Conversation(_tokens(len(prompt)), tuple(_of_text(prompt)))
    cuts = tuple(_of_messages(request))
    total = cuts[-1].tokens if cuts else 0
    if request.so_far:
        total += _tokens(len(request.so_far.text.encode()) + len(request.so_far.reasoning.encode()))
    return Conversation(total, cuts)


def _of_text(text: bytes) -> Iterator[Beginning]:
    digest = blake2b(digest_size=8)
    start, end = 0, _FIRST_CUT
    while end <= len(text):
        digest.update(text[start:end])
        yield _beginning(digest, _tokens(end))
        start, end = end, 2 * end


def _of_messages(request: ChatRequest) -> Iterator[Beginning]:
    digest = blake2b(digest_size=8)
    # Templates write tools before the conversation, so with others it begins differently.
    tools = ((t.name, t.description, msgspec.json.encode(t.parameters).decode()) for t in request.tools)
    total = _tokens(_feed(digest, (part for tool in tools for part in tool)))
    begun = False
    for position, message in enumerate(request.messages, 1):
        total += _TOKENS_A_MESSAGE + _tokens(_feed(digest, _parts(message)))
        begun = begun or message.role == "user"
        if begun or position == len(request.messages):
            yield _beginning(digest, total)


def _parts(message: Message) -> Iterator[str]:
    yield from (message.role, message.content, message.tool_call_id)
    for call in message.tool_calls:
        yield from (call.id, call.name, call.arguments)


def _feed(digest: blake2b, parts: Iterable[str]) -> int:
    """Hashes the parts, each with its length so that none can run into the next; returns their bytes."""
    total = 0
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8))
        digest.update(data)
        total += len(data)
    # There may be any number of parts, so their end is marked by a length that none can have.
    digest.update(b"\xff" * 8)
    return total


def _beginning(digest: blake2b, tokens: int) -> Beginning:
    return Beginning(int.from_bytes(digest.digest()) >> 1, tokens)


def _tokens(size: int) -> int:
    return -(-size // _BYTES_A_TOKEN)
