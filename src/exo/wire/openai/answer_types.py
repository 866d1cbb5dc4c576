"""The JSON that clients of the OpenAI dialect are sent, as structs.

A key that is UNSET is left out; None is sent as null, where OpenAI sends null too.
"""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class CachedTokens(Struct, frozen=True):
    cached_tokens: int


class ReasoningTokens(Struct, frozen=True):
    reasoning_tokens: int


class CompletionUsage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class EngineTimings(Struct, frozen=True):
    """llama.cpp's extension, as its server names things: tokens and milliseconds of one choice. `prompt_n`
    are the prompt's tokens that were read, `cache_n` those that came from a KV cache."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class ChosenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChosenLogprob]
    refusal: None = None


class FunctionCalled(Struct, frozen=True):
    name: str
    arguments: str


class AnsweredCall(Struct, frozen=True, tag_field="type", tag="function"):
    id: str
    function: FunctionCalled


class AnswerMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    """`content` is null where the answer is only tool calls."""

    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnsweredCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True):
    """`stop_reason`, as vLLM has it, is the stop string that ended the answer, where one did."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: str | UnsetType = UNSET


class ChatAnswer(Struct, frozen=True, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    timings: EngineTimings | UnsetType = UNSET


class FunctionDelta(Struct, frozen=True):
    arguments: str
    name: str | UnsetType = UNSET


class CallDelta(Struct, frozen=True):
    """`id`, `type` and the function's name come with the first delta of an index only."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    stop_reason: str | UnsetType = UNSET


class ChatChunk(Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """One event of a streamed chat. The one with the usage has no choices; the one with a choice's
    `finish_reason` has its timings."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | UnsetType | None = UNSET
    timings: EngineTimings | UnsetType = UNSET


class TextLogprobs(Struct, frozen=True):
    """Lists of equal length, one entry per token; offsets are in characters of `text` as a whole."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    stop_reason: str | UnsetType = UNSET


class TextAnswer(Struct, frozen=True, tag_field="object", tag="text_completion"):
    """A completion, whole or one event of a stream. The event with the usage has no choices; the one with a
    choice's `finish_reason` has its timings."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage | UnsetType | None = UNSET
    timings: EngineTimings | UnsetType = UNSET


class EmbeddingsUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Vector(Struct, frozen=True, tag_field="object", tag="embedding"):
    """`embedding` is a list, or base64 of little-endian float32."""

    index: int
    embedding: tuple[float, ...] | str


class EmbeddingsAnswer(Struct, frozen=True, tag_field="object", tag="list"):
    model: str
    data: list[Vector]
    usage: EmbeddingsUsage


class ModelAnswer(Struct, frozen=True, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str


class ModelsAnswer(Struct, frozen=True, tag_field="object", tag="list"):
    data: list[ModelAnswer]


class ErrorBody(Struct, frozen=True):
    """`code` is stable, `message` is for people, `param` names the parameter at fault."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
    error: ErrorBody
