"""The JSON that Ollama's clients are sent, as structs. A key that is UNSET is left out.

Durations are in nanoseconds, times in RFC 3339.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from exo.wire.openai.answer_types import ChosenLogprob


class OllamaFunctionMade(Struct, frozen=True):
    """`arguments` are an object, in the model's own words."""

    index: int
    name: str
    arguments: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


class OllamaAnsweredCall(Struct, frozen=True):
    id: str
    function: OllamaFunctionMade


class OllamaAnswerMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaAnsweredCall] | UnsetType = UNSET


class Measured(Struct, frozen=True, kw_only=True):
    """The end of an answer; all of it is left out on the lines before it.

    `load_duration` is what of the total was neither prompt nor answer: waiting for a turn, and for the model.
    """

    done: bool = False
    done_reason: Literal["stop", "length", "load", "unload"] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class OllamaChatAnswer(Measured, frozen=True, kw_only=True):
    """An answer to /api/chat: whole, or one line of a stream."""

    model: str
    created_at: str
    message: OllamaAnswerMessage
    logprobs: list[ChosenLogprob] | UnsetType = UNSET


class OllamaGenerateAnswer(Measured, frozen=True, kw_only=True):
    """An answer to /api/generate: whole, or one line of a stream."""

    model: str
    created_at: str
    response: str
    thinking: str | UnsetType = UNSET
    logprobs: list[ChosenLogprob] | UnsetType = UNSET


class OllamaEmbedAnswer(Struct, frozen=True):
    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsAnswer(Struct, frozen=True):
    embedding: tuple[float, ...]


class OllamaDetails(Struct, frozen=True):
    """What a model is; "" where that is not known."""

    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""


class OllamaModel(Struct, frozen=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(Struct, frozen=True):
    models: list[OllamaModel]


class OllamaShown(Struct, frozen=True):
    """`parameters` and `system` are what a request gets that leaves them open."""

    modelfile: str
    parameters: str
    template: str
    system: str
    details: OllamaDetails
    model_info: dict[str, str | int]
    capabilities: list[str]
    modified_at: str


class OllamaRunning(Struct, frozen=True):
    """`size_vram` is 0: how much of it a GPU holds is not known here."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    context_length: int
    size_vram: int = 0


class OllamaRunningModels(Struct, frozen=True):
    models: list[OllamaRunning]


class OllamaStatus(Struct, frozen=True):
    """One line of what a long task says of itself; sizes in bytes."""

    status: str
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class OllamaVersion(Struct, frozen=True):
    version: str


class OllamaError(Struct, frozen=True):
    error: str
