"""The JSON that Ollama's clients send, as structs; `answer_types` has what they get.

The shapes are those of Ollama's API reference (docs/api.md and docs/openapi.yaml there) and of its Go and
Python clients. As in the OpenAI dialect, unknown keys are refused, a key whose type is only null is known and
refused with its `description` as the remedy, and null always means absent. Ollama's Go client sends "" for
what it leaves open, so where "" means nothing it is taken for absent, too.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

from exo.wire.openai.request_types import (
    INT32,
    INT64,
    Count,
    FunctionDefinition,
    JsonObject,
    ModelName,
    NonEmpty,
    Penalty,
    RepeatPenalty,
)

Empty: TypeAlias = Literal[""]
KeepAlive: TypeAlias = Annotated[
    float | str, Meta(description='seconds, or a duration such as "5m"; -1 is for ever, 0 until the answer')
]
Think: TypeAlias = bool | Literal["low", "medium", "high"]
Format: TypeAlias = Literal["", "json"] | JsonObject
TopLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=20)]


class Sent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends."""


class OllamaOptions(Sent, frozen=True):
    """How an answer is drawn, and hints to the machine.

    Hints change no text, and this server tunes itself: they are accepted and have no effect. `num_ctx` is one
    too: a model always has its whole context, and asking for more is refused. `num_predict` may be -1 or -2
    for "no limit", `seed` -1 for "any".
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-INT64 - 1, le=INT64)] | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=INT32)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=16)] | None = None
    num_ctx: Count | None = None
    # Hints:
    num_keep: int | None = None  # what stays when a context is shifted, which never happens here
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    # They change the text, and only the value that leaves it as it is can be had; see `requests`:
    mirostat: int | None = None
    mirostat_tau: float | None = None  # without effect where mirostat is off
    mirostat_eta: float | None = None
    tfs_z: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    penalize_newline: bool | None = None
    vocab_only: bool | None = None
    embedding_only: bool | None = None


class OllamaFunctionCalled(Sent, frozen=True):
    name: NonEmpty
    arguments: Annotated[JsonObject, Meta(description="not text that holds one")] = field(
        default_factory=dict
    )
    index: int | None = None
    description: str | None = None


class OllamaCallMade(Sent, frozen=True):
    """A tool call of an earlier answer. Its place in the list counts, not its index."""

    function: OllamaFunctionCalled
    id: str | None = None
    type: Literal["function"] | None = None


class OllamaMessage(Sent, frozen=True):
    """`thinking` is what was thought before an earlier answer. A "tool" message answers the call that
    `tool_call_id` names, or the next open one of `tool_name`, or simply the next open one."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaCallMade] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaTool(Sent, frozen=True):
    function: FunctionDefinition
    type: Literal["function"] = "function"


class Generation(Sent, frozen=True):
    """What both ways of asking for text have in common.

    `truncate` and `shift` say what to drop of a prompt that is too long. Nothing is ever dropped here: it is
    refused, whatever they say.
    """

    model: ModelName
    stream: bool | None = None
    format: Format | None = None
    options: OllamaOptions | None = None
    think: Think | None = None
    keep_alive: KeepAlive | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    truncate: bool | None = None
    shift: bool | None = None


class OllamaChat(Generation, frozen=True, kw_only=True):
    """POST /api/chat. Without messages, the model is loaded, or unloaded where `keep_alive` is 0."""

    messages: Annotated[list[OllamaMessage], Meta(max_length=10_000)] | None = None
    tools: Annotated[list[OllamaTool], Meta(max_length=128)] | None = None


class OllamaGenerate(Generation, frozen=True, kw_only=True):
    """POST /api/generate: one answer to `prompt`, through the chat template unless `raw`. Without a prompt,
    the model is loaded, or unloaded where `keep_alive` is 0."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[str] | None = None
    context: list[int] | None = None
    suffix: Annotated[Empty | None, Meta(description="text is continued at its end only")] = None
    template: Annotated[
        Empty | None, Meta(description="a model's own template is used; with raw, send the rendered prompt")
    ] = None


class OllamaEmbed(Sent, frozen=True, kw_only=True):
    """POST /api/embed. Options are read, and have no effect on vectors."""

    model: ModelName
    input: str | Annotated[list[NonEmpty], Meta(max_length=2048)]
    truncate: bool | None = None
    options: OllamaOptions | None = None
    keep_alive: KeepAlive | None = None
    dimensions: Annotated[None, Meta(description="vectors have the model's own length")] = None


class OllamaEmbeddings(Sent, frozen=True, kw_only=True):
    """POST /api/embeddings, which /api/embed has replaced."""

    model: ModelName
    prompt: str | None = None
    options: OllamaOptions | None = None
    keep_alive: KeepAlive | None = None


class Named(Sent, frozen=True):
    """`name` is what older clients call the model."""

    model: str | None = None
    name: str | None = None


class OllamaShow(Named, frozen=True, kw_only=True):
    """POST /api/show. There is nothing more to tell where `verbose` is set."""

    verbose: bool | None = None
    system: Annotated[Empty | None, Meta(description="what is shown is the model as it is")] = None
    template: Annotated[Empty | None, Meta(description="what is shown is the model as it is")] = None
    options: Annotated[None, Meta(description="what is shown is the model as it is")] = None


class OllamaDelete(Named, frozen=True, kw_only=True):
    """DELETE /api/delete."""


class OllamaPull(Named, frozen=True, kw_only=True):
    """POST /api/pull."""

    stream: bool | None = None
    insecure: bool | None = None
    username: Annotated[Empty | None, Meta(description="set the hub's token in this node's environment")] = (
        None
    )
    password: Annotated[Empty | None, Meta(description="set the hub's token in this node's environment")] = (
        None
    )


_FROM = "use from, system and parameters"


class OllamaCreate(Named, frozen=True, kw_only=True):
    """POST /api/create: a model made of the files of another one."""

    base: str | None = field(default=None, name="from")
    system: str | None = None
    parameters: OllamaOptions | None = None
    stream: bool | None = None
    template: Annotated[Empty | None, Meta(description="a model keeps the template of its files")] = None
    messages: list[Any] | None = None
    license: str | list[str] | None = None
    quantize: Annotated[Empty | None, Meta(description="weights stay as they are")] = None
    quantization: Annotated[Empty | None, Meta(description="weights stay as they are")] = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    modelfile: Annotated[Empty | None, Meta(description=_FROM)] = None
    path: Annotated[Empty | None, Meta(description=_FROM)] = None
