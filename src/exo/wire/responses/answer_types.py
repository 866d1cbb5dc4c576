"""The JSON that clients of the Responses dialect are sent, as structs.

A key that is UNSET is left out; None is sent as null, where OpenAI sends null too.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from exo.wire.openai.answer_types import ChosenLogprob, ReasoningTokens
from exo.wire.openai.request_types import JsonObject, JsonObjectFormat, TextFormat
from exo.wire.responses import request_types as asked

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
ErrorCode: TypeAlias = Literal[
    "server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded"
]


# Items of an answer


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[JsonObject] = []
    logprobs: list[ChosenLogprob] = []


class ReasoningText(Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


OutputPart: TypeAlias = OutputText | ReasoningText | SummaryText


class OutputMessage(Struct, frozen=True, tag_field="type", tag="message"):
    id: str
    status: Status
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"


class OutputReasoning(Struct, frozen=True, tag_field="type", tag="reasoning"):
    """Thoughts, whole: in `content`, or where a summary was asked for in `summary`."""

    id: str
    status: Status
    summary: list[SummaryText]
    content: list[ReasoningText] | UnsetType = UNSET


class OutputCall(Struct, frozen=True, tag_field="type", tag="function_call"):
    """`id` is the item's, `call_id` is what a function_call_output answers."""

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem: TypeAlias = OutputMessage | OutputReasoning | OutputCall


# A response


class InputTokens(Struct, frozen=True):
    """What is written to a cache is not told by engines, and costs nothing."""

    cached_tokens: int
    cache_write_tokens: Literal[0] = 0


class ResponseUsage(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseError(Struct, frozen=True):
    """`code` is one of OpenAI's few, or "context_length_exceeded", which agents look for."""

    code: ErrorCode
    message: str


class WhyIncomplete(Struct, frozen=True):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ReasoningAsked(Struct, frozen=True):
    effort: str | None
    summary: str | None


class TextAsked(Struct, frozen=True):
    format: TextFormat | JsonObjectFormat | asked.FlatSchemaFormat
    verbosity: Literal["medium"] = "medium"


class ResponseAnswer(Struct, frozen=True, kw_only=True, tag_field="object", tag="response"):
    """A response, under way or ended. Below `usage` is what was asked."""

    id: str
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[OutputItem]
    error: ResponseError | None = None
    incomplete_details: WhyIncomplete | None = None
    usage: ResponseUsage | None = None
    instructions: str | None
    previous_response_id: str | None
    store: bool
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_logprobs: int
    tools: list[asked.ResponsesFunction]
    tool_choice: asked.ToolChoice
    parallel_tool_calls: bool
    reasoning: ReasoningAsked
    text: TextAsked
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    truncation: Literal["disabled"] = "disabled"
    service_tier: Literal["default"] = "default"
    background: bool = False
    max_tool_calls: None = None


class ResponseEvent(Struct, frozen=True, kw_only=True):
    """One event of a streamed response; which keys it has depends on its type. `sequence_number` counts them
    from 0, and comes last."""

    type: str
    response: ResponseAnswer | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    summary_index: int | UnsetType = UNSET
    part: OutputPart | UnsetType = UNSET
    logprobs: list[ChosenLogprob] | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    param: str | UnsetType | None = UNSET
    sequence_number: int


# What is kept


class ItemsAnswer(Struct, frozen=True, tag_field="object", tag="list"):
    """Some of the items of a conversation, and the ids of the first and the last of them."""

    data: list[asked.ResponsesItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseDeleted(Struct, frozen=True, tag_field="object", tag="response"):
    id: str
    deleted: bool = True
