"""The JSON that Anthropic's clients send, as structs; `answer_types` has what they get.

The shapes are those of Anthropic's Messages API as its Python client 2.12 has them, betas included. As in the
OpenAI dialect, unknown keys are refused, a key whose type is only null is known and refused with its
`description` as the remedy, and null always means absent. A `cache_control` is accepted wherever clients put
one, and has no effect: prefixes are always kept.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from exo.wire.openai.request_types import INT32, Count, JsonObject, ModelName, NonEmpty

# `$` alone lets a newline follow, in Python; the look-ahead changes nothing in JSON Schema's own regexes.
ToolName: TypeAlias = Annotated[
    str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$(?!\n)", description="1 to 128 letters, digits, _ or -")
]
_TEXT_ONLY = "images, documents and a server's own tools are not supported, this one reads text only"


class Sent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends."""


# A conversation


class AnthropicText(Sent, frozen=True, tag_field="type", tag="text"):
    """`citations` of an earlier answer are not shown to the model."""

    text: str
    cache_control: JsonObject | None = None
    citations: list[JsonObject] | None = None


class AnthropicThinking(Sent, frozen=True, tag_field="type", tag="thinking"):
    """A thought of an earlier answer. Its signature is not checked."""

    thinking: str
    signature: str | None = None


class AnthropicRedactedThinking(Sent, frozen=True, tag_field="type", tag="redacted_thinking"):
    """A thought that only the server it came from can read: it is dropped."""

    data: str


class AnthropicToolUse(Sent, frozen=True, tag_field="type", tag="tool_use"):
    """A tool call of an earlier answer."""

    id: NonEmpty
    name: NonEmpty
    input: JsonObject
    cache_control: JsonObject | None = None
    caller: JsonObject | None = None
    toolset_name: Annotated[None, Meta(description="there are no toolsets here")] = None


ResultPart: TypeAlias = Annotated[AnthropicText, Meta(description=_TEXT_ONLY)]


class AnthropicToolResult(Sent, frozen=True, tag_field="type", tag="tool_result"):
    """What came of the call that `tool_use_id` names."""

    tool_use_id: NonEmpty
    content: str | list[ResultPart] | None = None
    is_error: bool | None = None
    cache_control: JsonObject | None = None
    toolset_name: Annotated[None, Meta(description="there are no toolsets here")] = None


AskedBlock: TypeAlias = Annotated[AnthropicText | AnthropicToolResult, Meta(description=_TEXT_ONLY)]
AnsweredBlock: TypeAlias = Annotated[
    AnthropicText | AnthropicThinking | AnthropicRedactedThinking | AnthropicToolUse,
    Meta(description=_TEXT_ONLY),
]


class AnthropicUserMessage(Sent, frozen=True, tag_field="role", tag="user"):
    content: str | Annotated[list[AskedBlock], Meta(min_length=1)]


class AnthropicAssistantMessage(Sent, frozen=True, tag_field="role", tag="assistant"):
    """An earlier answer; as the last message, the beginning of the answer wanted."""

    content: str | list[AnsweredBlock]


class AnthropicSystemMessage(Sent, frozen=True, tag_field="role", tag="system"):
    """Instructions in the middle of a conversation."""

    content: str | Annotated[list[AnthropicText], Meta(min_length=1)]


AnthropicMessage: TypeAlias = AnthropicUserMessage | AnthropicAssistantMessage | AnthropicSystemMessage


# Tools


class AnthropicTool(Sent, frozen=True):
    """A function of the client's own. Every tool is shown to the model, so `defer_loading` has no effect; nor
    have `strict` and `eager_input_streaming`, as arguments are streamed as they come."""

    name: ToolName
    input_schema: JsonObject
    description: str | None = None
    type: (
        Annotated[
            Literal["custom"],
            Meta(description="this server has no tools of its own: send a tool with an input_schema"),
        ]
        | None
    ) = None
    cache_control: JsonObject | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: (
        list[Annotated[Literal["direct"], Meta(description="this server runs no code")]] | None
    ) = None
    input_examples: Annotated[None, Meta(description="put examples into the description")] = None


class Choice(Sent, frozen=True):
    """Which tools may or have to be called."""

    disable_parallel_tool_use: bool | None = None


class AnthropicChoiceAuto(Choice, frozen=True, tag_field="type", tag="auto"):
    pass


class AnthropicChoiceAny(Choice, frozen=True, tag_field="type", tag="any"):
    pass


class AnthropicChoiceTool(Choice, frozen=True, kw_only=True, tag_field="type", tag="tool"):
    name: NonEmpty


class AnthropicChoiceNone(Sent, frozen=True, tag_field="type", tag="none"):
    pass


AnthropicToolChoice: TypeAlias = (
    AnthropicChoiceAuto | AnthropicChoiceAny | AnthropicChoiceTool | AnthropicChoiceNone
)


# Thinking and the form of the answer


class Thinking(Sent, frozen=True):
    """Thoughts are never summarized here: they are shown whole, or not at all. `block_binding` is about their
    signatures, which are not checked."""

    display: Literal["summarized", "omitted"] | None = None
    block_binding: JsonObject | None = None


class AnthropicThinkingEnabled(Thinking, frozen=True, kw_only=True, tag_field="type", tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=1024, le=INT32)]


class AnthropicThinkingAdaptive(Thinking, frozen=True, tag_field="type", tag="adaptive"):
    """Whether to think is left to the model."""


class AnthropicThinkingDisabled(Sent, frozen=True, tag_field="type", tag="disabled"):
    pass


class AnthropicThinkingBetweenTools(Sent, frozen=True, tag_field="type", tag="between_tools"):
    """The model may think over what its tools have said, and not before that."""


AnthropicThinkingConfig: TypeAlias = (
    AnthropicThinkingEnabled
    | AnthropicThinkingAdaptive
    | AnthropicThinkingDisabled
    | AnthropicThinkingBetweenTools
)


class AnthropicOutputFormat(Sent, frozen=True, tag_field="type", tag="json_schema"):
    schema: JsonObject


class AnthropicOutputConfig(Sent, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: AnthropicOutputFormat | None = None
    task_budget: Annotated[None, Meta(description="set max_tokens for each answer")] = None


class AnthropicClearToolUses(Sent, frozen=True, tag_field="type", tag="clear_tool_uses_20250919"):
    trigger: JsonObject | None = None
    keep: JsonObject | None = None
    clear_at_least: JsonObject | None = None
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None


class AnthropicClearThinking(Sent, frozen=True, tag_field="type", tag="clear_thinking_20251015"):
    keep: JsonObject | Literal["all"] | None = None


class AnthropicContextManagement(Sent, frozen=True):
    """What of a long conversation may be dropped. Nothing ever is here: one that is too long is refused, and
    the answer says that no edit was applied."""

    edits: (
        list[
            Annotated[
                AnthropicClearToolUses | AnthropicClearThinking,
                Meta(description="have the client shorten the conversation"),
            ]
        ]
        | None
    ) = None


class AnthropicMetadata(Sent, frozen=True):
    user_id: str | None = None


# Requests


class Conversation(Sent, frozen=True):
    """What an answer and a count of tokens are asked with. `speed` is a hint to the machine, `billing_policy`
    says who pays: both have no effect."""

    model: ModelName
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1, max_length=10_000)]
    system: str | list[AnthropicText] | None = None
    tools: Annotated[list[AnthropicTool], Meta(max_length=128)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinkingConfig | None = None
    output_config: AnthropicOutputConfig | None = None
    output_format: AnthropicOutputFormat | None = None  # the older name of output_config.format
    cache_control: JsonObject | None = None
    context_management: AnthropicContextManagement | None = None
    mcp_servers: list[Any] | None = None
    speed: Literal["standard", "fast"] | None = None
    billing_policy: JsonObject | str | None = None
    compaction: Annotated[None, Meta(description="have the client shorten the conversation")] = None


class AnthropicMessages(Conversation, frozen=True, kw_only=True):
    """POST /v1/messages. `diagnostics` asks about a prompt cache of Anthropic's, and has no answer here."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[NonEmpty], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    metadata: AnthropicMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: JsonObject | None = None
    fallbacks: (
        Annotated[Literal["default"], Meta(description="no other model answers in this one's place")] | None
    ) = None
    # Refused by name:
    container: Annotated[None, Meta(description="this server runs no code")] = None
    inference_geo: Annotated[None, Meta(description="answers are made on the owner's machines")] = None
    thread: Annotated[None, Meta(description="nothing is kept here: send the whole conversation")] = None
    fallback_credit_token: Annotated[None, Meta(description="nothing is billed here")] = None


class AnthropicCountTokens(Conversation, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens."""
