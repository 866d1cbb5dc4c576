"""The OpenAI dialect, the client's side: requests to bodies, for other nodes and any server that speaks it.

Only what is set is sent, under the name most servers know. A streamed answer is read by
`chunks.ChunkReader`, a whole one here with as much lenience, and a refusal by `errors.decode_error`.
"""

import math
import struct
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import msgspec

from exo.cards import Format, ModelCard
from exo.chat import ChatRequest, Embeddings, EmbedRequest, Message, Tool
from exo.errors import EngineFailed
from exo.wire.openai import request_types as types
from exo.wire.openai.errors import decode_error_event

_encode = msgspec.json.Encoder().encode


def encode_chat(request: ChatRequest) -> bytes:
    """The body for /v1/chat/completions; the answer is always streamed, with its usage.

    `id` is not in it. Raises `ValueError` for a request with a `prompt`, which `encode_completion` takes.
    """
    if request.prompt is not None:
        raise ValueError("a request with a prompt is a completion")
    messages = [_message(message) for message in request.messages]
    if request.so_far:
        said = request.so_far
        messages.append(types.AssistantMessage(content=said.text, reasoning_content=said.reasoning or None))
    body = types.ChatBody(
        messages=messages,
        continue_final_message=True if request.so_far else None,
        tools=[_tool(tool) for tool in request.tools] or None,
        tool_choice=_tool_choice(request),
        parallel_tool_calls=None if request.parallel_calls or not request.tools else False,
        thinking_budget=request.thinking_budget,
        logprobs=True if request.logprobs is not None else None,
        top_logprobs=request.logprobs or None,
        chat_template_kwargs=(
            types.TemplateSwitches(enable_thinking=request.thinking) if request.thinking is not None else None
        ),
        **_generation(request),
    )
    return _encode(body)


def encode_completion(request: ChatRequest) -> bytes:
    """The body for /v1/completions, as `encode_chat`.

    Raises `ValueError` for a request without a `prompt`, or with tools or thinking, which need a template.
    """
    if request.prompt is None or request.tools or request.thinking is not None:
        raise ValueError("a completion has a prompt, and neither tools nor thinking")
    return _encode(
        types.CompletionBody(prompt=request.prompt, logprobs=request.logprobs, **_generation(request))
    )


def _generation(request: ChatRequest) -> dict[str, Any]:
    """What both bodies share."""
    sampling = request.sampling
    return {
        "model": request.model or None,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": dict(sampling.logit_bias) or None,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "stop": list(request.stop) or None,
        "response_format": _response_format(request),
        "grammar": request.grammar,
        "stream": True,
        "stream_options": types.StreamOptions(include_usage=True),
    }


def _response_format(request: ChatRequest) -> types.JsonSchemaFormat | None:
    if request.json_schema is None:
        return None
    return types.JsonSchemaFormat(
        json_schema=types.NamedSchema(name="answer", schema=dict(request.json_schema), strict=True)
    )


def _message(message: Message) -> types.ChatMessage:
    match message.role:
        case "system":
            return types.SystemMessage(content=message.content)
        case "user":
            return types.UserMessage(content=message.content)
        case "tool":
            return types.ToolMessage(content=message.content, tool_call_id=message.tool_call_id)
        case "assistant":
            calls = [
                types.CallMade(
                    id=call.id, function=types.CalledFunction(name=call.name, arguments=call.arguments)
                )
                for call in message.tool_calls
            ]
            content = message.content if message.content or not calls else None
            return types.AssistantMessage(
                content=content, tool_calls=calls or None, reasoning_content=message.reasoning or None
            )


def _tool_choice(request: ChatRequest) -> types.ToolChoice | None:
    if not request.must_call:
        return None
    if set(request.must_call) == {tool.name for tool in request.tools}:
        return "required"
    named = [types.FunctionChoice(types.NamedFunction(name)) for name in request.must_call]
    if len(named) == 1:
        return named[0]
    return types.AllowedChoice(types.AllowedTools("required", named))


def _tool(tool: Tool) -> types.FunctionTool:
    return types.FunctionTool(
        function=types.FunctionDefinition(
            name=tool.name,
            description=tool.description or None,
            parameters=dict(tool.parameters) or None,
        )
    )


# Embeddings


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float] | str


class _Read(msgspec.Struct):
    prompt_tokens: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector] | None = None
    usage: _Read | None = None
    error: Any = None


def encode_embeddings(request: EmbedRequest) -> bytes:
    """The body for /v1/embeddings; its answer is read by `decode_embeddings_answer`."""
    return _encode(types.EmbeddingsBody(model=request.model, input=list(request.texts)))


def decode_embeddings_answer(body: bytes, texts: int) -> Embeddings:
    """The vectors of so many texts, made as long as 1 where the server has not done so.

    Raises what the server failed with after its answer had begun, and `EngineFailed` where there is not one
    for each text, or no vector that can be read.
    """
    try:
        said = msgspec.json.decode(body, type=_Vectors)
        if said.error is not None:
            raise decode_error_event(said.error)
        if said.data is None:
            raise ValueError("there is no data")
        vectors = {each.index: _unit(_numbers(each.embedding)) for each in said.data}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, struct.error) as error:
        raise EngineFailed(f"the server sent embeddings that cannot be read: {error}") from None
    if sorted(vectors) != list(range(texts)) or len(said.data) != texts:
        raise EngineFailed(f"the server sent {len(said.data)} embeddings for {texts} texts")
    return Embeddings(
        tuple(vectors[index] for index in range(texts)), said.usage.prompt_tokens if said.usage else 0
    )


def _numbers(embedding: Sequence[float] | str) -> tuple[float, ...]:
    if not isinstance(embedding, str):
        return tuple(embedding)
    raw = b64decode(embedding, validate=True)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _unit(vector: tuple[float, ...]) -> tuple[float, ...]:
    length = math.hypot(*vector)
    if not math.isfinite(length):
        raise ValueError("a number in them is none")
    # One of length 1 but for rounding stays as it is, to the bit.
    return vector if length == 0 or abs(length - 1) < 1e-3 else tuple(x / length for x in vector)


# Models


class _Model(msgspec.Struct):
    id: str
    created: Any = None
    owned_by: Any = None


class _Models(msgspec.Struct):
    data: list[_Model]


def decode_models(body: bytes, format: Format) -> tuple[ModelCard, ...]:
    """The models of an answer to GET /v1/models, as cards of this format that know nothing of their size.

    Raises `EngineFailed` for an answer that is no such list.
    """
    try:
        said = msgspec.json.decode(body, type=_Models)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFailed(f"the answer to GET /v1/models is no list of models: {error}") from None
    return tuple(
        ModelCard(
            id=model.id,
            format=format,
            context=0,
            bytes=0,
            memory=0,
            created=model.created if isinstance(model.created, int) else 0,
            owned_by=model.owned_by if isinstance(model.owned_by, str) else "",
        )
        for model in said.data
        if model.id
    )
