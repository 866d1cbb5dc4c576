"""The JSON that clients of the OpenAI dialect send, as structs; `answer_types` has what they get.

Requests forbid unknown keys and carry their ranges; an error puts the type of the key at fault into words
(see `wire.json`), with its `description` as the remedy. A key whose type is only null is known and
refused. Null always means absent.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from exo.wire.efforts import Effort

INT32 = 2**31 - 1  # engines keep token ids and counts in C ints
INT64 = 2**63 - 1

NonEmpty: TypeAlias = Annotated[str, Meta(min_length=1)]
ModelName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
# `$` alone lets a newline follow, in Python; the look-ahead changes nothing in JSON Schema's own regexes.
FunctionName: TypeAlias = Annotated[
    str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$(?!\n)", description="1 to 128 letters, digits, _ or -")
]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=INT32)]
TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=INT32)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
RepeatPenalty: TypeAlias = Annotated[float, Meta(gt=0)]
Choices: TypeAlias = Annotated[int, Meta(ge=1, le=16)]
JsonObject: TypeAlias = dict[str, Any]


class Sent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client sends; also encoded by our own client, which leaves out what is not set."""


# A conversation


class CacheBreakpoint(Sent, frozen=True):
    """A hint to a provider's prompt cache. Accepted and without effect: prefixes are always kept."""

    mode: Literal["explicit"]
    ttl: str | None = None


class TextPart(Sent, frozen=True, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class RefusalPart(Sent, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


ContentPart: TypeAlias = Annotated[
    TextPart | RefusalPart, Meta(description="images, audio and files are not supported")
]
Content: TypeAlias = str | Annotated[list[ContentPart], Meta(min_length=1)]


class SystemMessage(Sent, frozen=True, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class DeveloperMessage(Sent, frozen=True, tag_field="role", tag="developer"):
    """The same as a system message."""

    content: Content
    name: str | None = None


class UserMessage(Sent, frozen=True, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class CalledFunction(Sent, frozen=True):
    """`parsed_arguments` is what OpenAI's own clients keep beside them."""

    name: NonEmpty
    arguments: str
    parsed_arguments: Any = None


class CallMade(Sent, frozen=True, tag_field="type", tag="function"):
    """A tool call of an earlier answer. Its place in the list counts, not `index`."""

    id: NonEmpty
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Sent, frozen=True, tag_field="role", tag="assistant"):
    """An earlier answer as this dialect gave it; `parsed` is what OpenAI's own clients keep beside it."""

    content: Content | None = None
    tool_calls: list[CallMade] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    name: str | None = None
    annotations: list[JsonObject] | None = None
    parsed: Any = None
    audio: Annotated[None, Meta(description="send the answer's text as content")] = None
    function_call: Annotated[None, Meta(description="use tool_calls")] = None


class ToolMessage(Sent, frozen=True, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: NonEmpty
    name: str | None = None


ChatMessage: TypeAlias = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage,
    Meta(description='a "function" message is now a "tool" message'),
]


# Tools and constraints


class FunctionDefinition(Sent, frozen=True):
    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionTool(Sent, frozen=True, tag_field="type", tag="function"):
    function: FunctionDefinition


class NamedFunction(Sent, frozen=True):
    name: NonEmpty


class FunctionChoice(Sent, frozen=True, tag_field="type", tag="function"):
    """The tool that has to be called."""

    function: NamedFunction


class AllowedTools(Sent, frozen=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Meta(min_length=1)]


class AllowedChoice(Sent, frozen=True, tag_field="type", tag="allowed_tools"):
    """The tools that may, or one of which has to be called."""

    allowed_tools: AllowedTools


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | FunctionChoice | AllowedChoice


class TextFormat(Sent, frozen=True, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Sent, frozen=True, tag_field="type", tag="json_object"):
    pass


class NamedSchema(Sent, frozen=True):
    """`strict` has no effect: an answer always keeps to the whole schema."""

    name: FunctionName
    schema: JsonObject
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Sent, frozen=True, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema


class TemplateSwitches(Sent, frozen=True):
    enable_thinking: bool | None = None


class StreamOptions(Sent, frozen=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # without effect: a hint against eavesdroppers


# Requests


class Generation(Sent, frozen=True):
    """What both ways of asking for text have in common."""

    model: ModelName | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-INT64 - 1, le=INT64)] | None = None
    max_tokens: Count | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=16)] | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    grammar: NonEmpty | None = None
    user: str | None = None


class ChatBody(Generation, frozen=True, kw_only=True):
    """POST /v1/chat/completions. Beside OpenAI's keys: `top_k`, `min_p`, `repeat_penalty` (or
    `repetition_penalty`), `grammar` (GBNF), and `enable_thinking`, alone or in `chat_template_kwargs`;
    `thinking_budget`, in tokens; `include_reasoning`, whether the answer shows what was thought, and
    `keep_reasoning`, whether the model is given what it had thought before earlier answers, as far as its
    chat template does so; and as vLLM has it, `continue_final_message`: the last message is the beginning of
    the answer."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    chat_template_kwargs: TemplateSwitches | None = None
    enable_thinking: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    reasoning_effort: Effort | None = None
    thinking_budget: Count | None = None
    include_reasoning: bool | None = None
    keep_reasoning: bool | None = None
    modalities: list[Annotated[Literal["text"], Meta(description="audio is not supported")]] | None = None
    # Without effect on the answer of a machine that keeps nothing and sends nothing elsewhere:
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonObject | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None
    # Refused by name:
    functions: Annotated[None, Meta(description="use tools")] = None
    function_call: Annotated[None, Meta(description="use tool_choice")] = None
    audio: Annotated[None, Meta(description="answers are text only")] = None
    prediction: Annotated[None, Meta(description="leave it out")] = None
    moderation: Annotated[None, Meta(description="leave it out")] = None
    verbosity: Annotated[Literal["medium"] | None, Meta(description="ask for it in a system message")] = None
    web_search_options: Annotated[None, Meta(description="this server searches nothing")] = None


Prompt: TypeAlias = Annotated[str, Meta(description="token arrays are not supported, send text")]


class CompletionBody(Generation, frozen=True, kw_only=True):
    """POST /v1/completions: text continued as it stands, without a chat template."""

    prompt: Prompt | Annotated[list[Prompt], Meta(min_length=1, max_length=128)]
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Choices | None = None
    suffix: Annotated[None, Meta(description="text is continued at its end only")] = None


Input: TypeAlias = Annotated[str, Meta(min_length=1, description="token arrays are not supported, send text")]


class EmbeddingsBody(Sent, frozen=True):
    """POST /v1/embeddings."""

    model: ModelName
    input: Input | Annotated[list[Input], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[None, Meta(description="vectors have the model's own length")] = None
    user: str | None = None
