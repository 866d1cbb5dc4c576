"""The OpenAI dialect, the client's side: requests to bodies, for other nodes and any server that speaks it.

Only what is set is sent, under the name most servers know. The answer is read by `chunks.ChunkReader`, or
by `errors.decode_error` where its status says so.
"""

from typing import Any

import msgspec

from exo.chat import ChatRequest, Message, Tool
from exo.wire.openai import request_types as types

_encode = msgspec.json.Encoder().encode


def encode_chat(request: ChatRequest) -> bytes:
    """The body for /v1/chat/completions; the answer is always streamed, with its usage.

    `id` is not in it. Raises `ValueError` for a request with a `prompt`, which `encode_completion` takes.
    """
    if request.prompt is not None:
        raise ValueError("a request with a prompt is a completion")
    body = types.ChatBody(
        messages=[_message(message) for message in request.messages],
        tools=[_tool(tool) for tool in request.tools] or None,
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
            return types.AssistantMessage(content=content, tool_calls=calls or None)


def _tool(tool: Tool) -> types.FunctionTool:
    return types.FunctionTool(
        function=types.FunctionDefinition(
            name=tool.name,
            description=tool.description or None,
            parameters=dict(tool.parameters) or None,
        )
    )
