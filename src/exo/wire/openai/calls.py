"""What one HTTP call of the OpenAI dialect asks: the request, and in which form its answer is wanted."""

import msgspec

from exo.chat import ChatRequest, EmbedRequest


class ChatCall(msgspec.Struct, frozen=True):
    """`n` answers wanted to one request, with what was thought where `reasoning`."""

    request: ChatRequest
    n: int
    stream: bool
    include_usage: bool
    reasoning: bool = True


class CompletionCall(msgspec.Struct, frozen=True):
    """`n` answers wanted to each request, one request per prompt. Choice i answers request i // n."""

    requests: tuple[ChatRequest, ...]
    n: int
    stream: bool
    include_usage: bool
    echo: bool


class EmbedCall(msgspec.Struct, frozen=True):
    """Vectors wanted, as base64 of float32 or as lists of numbers."""

    request: EmbedRequest
    base64: bool
