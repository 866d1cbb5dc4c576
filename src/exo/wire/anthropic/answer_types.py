"""The JSON that Anthropic's clients are sent, as structs: an answer, the events of a streamed one, models.

A key that is UNSET is left out; None is sent as null, where Anthropic sends null too.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
ErrorType: TypeAlias = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
]


# What an answer is made of


class AnthropicTextBlock(Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class AnthropicThinkingBlock(Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class AnthropicToolUseBlock(Struct, frozen=True, tag_field="type", tag="tool_use"):
    """`input` is an object, in the model's own words."""

    id: str
    name: str
    input: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


AnthropicBlock: TypeAlias = AnthropicTextBlock | AnthropicThinkingBlock | AnthropicToolUseBlock


class AnthropicThought(Struct, frozen=True):
    thinking_tokens: int


class AnthropicUsage(Struct, frozen=True):
    """Tokens. The prompt's are in three parts: read, written to a cache that is paid for, and had from the KV
    cache. `output_tokens_details` are part of `output_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: AnthropicThought


class AnthropicEdits(Struct, frozen=True):
    """What was cleared of the conversation: nothing ever is."""

    applied_edits: tuple[()] = ()


class AnthropicAnswer(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A whole answer. `stop_reason` is null where it has only begun."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnthropicBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage
    context_management: AnthropicEdits | UnsetType = UNSET


class AnthropicCount(Struct, frozen=True):
    input_tokens: int


# Events


class AnthropicMessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    """Its usage is all zero: what the prompt took is known at the end only."""

    message: AnthropicAnswer


class AnthropicBlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: AnthropicBlock


class AnthropicTextDelta(Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class AnthropicThinkingDelta(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class AnthropicSignatureDelta(Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class AnthropicInputDelta(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


AnthropicDelta: TypeAlias = (
    AnthropicTextDelta | AnthropicThinkingDelta | AnthropicSignatureDelta | AnthropicInputDelta
)


class AnthropicBlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: AnthropicDelta


class AnthropicBlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class AnthropicEnding(Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class AnthropicMessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    """The end of an answer; its usage is of the whole of it."""

    delta: AnthropicEnding
    usage: AnthropicUsage
    context_management: AnthropicEdits | UnsetType = UNSET


class AnthropicMessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class AnthropicPing(Struct, frozen=True, tag_field="type", tag="ping"):
    pass


class AnthropicErrorDetails(Struct, frozen=True):
    """What clients can do something about."""

    error_code: Literal["thread_unsupported_request"]


class AnthropicError(Struct, frozen=True):
    type: ErrorType
    message: str
    details: AnthropicErrorDetails | UnsetType = UNSET


class AnthropicErrorAnswer(Struct, frozen=True, tag_field="type", tag="error"):
    error: AnthropicError
    request_id: str | None


AnthropicEvent: TypeAlias = (
    AnthropicMessageStart
    | AnthropicBlockStart
    | AnthropicBlockDelta
    | AnthropicBlockStop
    | AnthropicMessageDelta
    | AnthropicMessageStop
    | AnthropicPing
    | AnthropicErrorAnswer
)


# Models


class AnthropicModel(Struct, frozen=True, tag_field="type", tag="model"):
    """`max_input_tokens` is null where the model is another server's, which knows it."""

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None
    lifecycle: Literal["active"] = "active"


class AnthropicModels(Struct, frozen=True):
    """All of them on one page."""

    data: list[AnthropicModel]
    first_id: str | None
    last_id: str | None
    has_more: bool = False
