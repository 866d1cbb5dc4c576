"""The JSON that clients of the Responses dialect send, as structs; `answer_types` has what they get.

As in `wire.openai.request_types`: unknown keys are forbidden, a key whose type is only null is known and
refused with its `description` as the remedy, and null always means absent. What is the same JSON in both
dialects is taken from there.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from exo.wire.efforts import Effort
from exo.wire.openai.request_types import (
    CacheBreakpoint,
    Count,
    FunctionName,
    JsonObject,
    JsonObjectFormat,
    ModelName,
    RefusalPart,
    Sent,
    TextFormat,
)

# A conversation


class InputTextPart(Sent, frozen=True, tag_field="type", tag="input_text"):
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class OutputTextPart(Sent, frozen=True, tag_field="type", tag="output_text"):
    """Of an earlier answer. Its annotations and probabilities are not looked at, nor is what OpenAI's own
    clients keep beside it."""

    text: str
    annotations: list[JsonObject] | None = None
    logprobs: list[JsonObject] | None = None
    parsed: Any = None


class ReasoningTextPart(Sent, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryTextPart(Sent, frozen=True, tag_field="type", tag="summary_text"):
    text: str


ItemPart: TypeAlias = Annotated[
    InputTextPart | OutputTextPart | RefusalPart | ReasoningTextPart,
    Meta(description="images, audio and files are not supported"),
]
ItemType: TypeAlias = Annotated[
    Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"],
    Meta(description="tools other than functions are not supported"),
]


class ResponsesItem(Sent, frozen=True):
    """One item of a conversation, of any type: which keys a type has is in `items.py`.

    They are not a union told apart by `type`, because clients may leave that out of messages and references.
    """

    type: ItemType | None = None
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[ItemPart] | None = None
    phase: Literal["commentary", "final_answer"] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    parsed_arguments: Any = None
    output: str | list[ItemPart] | None = None
    summary: list[SummaryTextPart] | None = None
    encrypted_content: str | None = None
    caller: Annotated[None, Meta(description="calls come from the model itself")] = None
    namespace: Annotated[None, Meta(description="send functions by their own names")] = None


# Tools and the form of the answer


class ResponsesFunction(Sent, frozen=True, tag_field="type", tag="function"):
    """`strict` and `output_schema` have no effect: calls always keep to `parameters`. `defer_loading` may be
    false only."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    output_schema: JsonObject | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: bool | None = None


ResponsesTool: TypeAlias = Annotated[
    ResponsesFunction,
    Meta(description="this server runs no tools itself, take all but functions out of tools"),
]


class ChosenFunction(Sent, frozen=True, tag_field="type", tag="function"):
    name: FunctionName


class AllowedFunctions(Sent, frozen=True, tag_field="type", tag="allowed_tools"):
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenFunction], Meta(min_length=1, max_length=128)]


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | ChosenFunction | AllowedFunctions


class FlatSchemaFormat(Sent, frozen=True, tag_field="type", tag="json_schema"):
    """`strict` has no effect: an answer always keeps to the whole schema."""

    name: FunctionName
    schema: JsonObject
    description: str | None = None
    strict: bool | None = None


class TextForm(Sent, frozen=True):
    format: TextFormat | JsonObjectFormat | FlatSchemaFormat | None = None
    verbosity: (
        Annotated[Literal["medium"], Meta(description="ask for it in the instructions, or leave it out")]
        | None
    ) = None


Summary: TypeAlias = Literal["auto", "concise", "detailed"]


class ReasoningForm(Sent, frozen=True):
    """With a `summary`, of whichever kind, thoughts come as the summary of a reasoning item, whole as they
    are: a client that asks for one reads nothing else. Without it they come as its content."""

    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    context: (
        Annotated[Literal["auto"], Meta(description="the model's own template decides what it is shown")]
        | None
    ) = None
    mode: Annotated[Literal["standard"], Meta(description="there is only one mode")] | None = None


class ObfuscationOptions(Sent, frozen=True):
    include_obfuscation: bool | None = None  # without effect: a hint against eavesdroppers


# Probabilities are the only thing here that an answer can have or not: of the others, what they would add
# to belongs to tools that this server does not have, and thoughts are given in the clear.
Include: TypeAlias = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesBody(Sent, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | Annotated[list[ResponsesItem], Meta(max_length=10_000)]
    model: ModelName | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ObfuscationOptions | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[Include] | None = None
    tools: Annotated[list[ResponsesTool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningForm | None = None
    text: TextForm | None = None
    truncation: (
        Annotated[
            Literal["disabled"],
            Meta(description="a conversation is never cut here, leave out its oldest part yourself"),
        ]
        | None
    ) = None
    background: bool | None = None
    # Without effect on the answer of a machine that sends nothing elsewhere:
    metadata: dict[str, str] | None = None
    client_metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonObject | None = None
    service_tier: Literal["auto", "default"] | None = None
    # Refused by name:
    conversation: Annotated[None, Meta(description="use previous_response_id")] = None
    prompt: Annotated[None, Meta(description="send its text as instructions and input")] = None
    max_tool_calls: Annotated[None, Meta(description="this server runs no tools itself")] = None
    context_management: Annotated[None, Meta(description="leave out what is too old yourself")] = None
    moderation: Annotated[None, Meta(description="leave it out")] = None
    access_programs: Annotated[None, Meta(description="leave it out")] = None
    image: Annotated[None, Meta(description="images are not supported")] = None
