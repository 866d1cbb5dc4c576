"""What clients of the OpenAI dialect ask: request bodies to values.

`decode_*` turn a body into what was asked, or raise `BadRequest` with `param` naming the key at fault; they
raise nothing else, whatever the bytes. Types and ranges are checked by the structs of `request_types`; here
is what concerns several keys at once.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from exo.chat import ChatRequest, EmbedRequest, JsonSchema, Message, Sampling, SoFar, Tool, ToolCall
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.json import Reader
from exo.wire.openai import request_types as types
from exo.wire.openai.calls import ChatCall, CompletionCall, EmbedCall

T = TypeVar("T")

_THINKS = {"none": False, "minimal": False}  # of reasoning_effort; every other effort thinks

_CHAT = Reader(types.ChatBody)
_COMPLETION = Reader(types.CompletionBody)
_EMBEDDINGS = Reader(types.EmbeddingsBody)


def decode_chat(body: bytes, *, id: str) -> ChatCall:
    asked = _CHAT.read(body)
    if asked.store:
        raise BadRequest("store must be false: answers are not kept on this server", param="store")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    so_far = _so_far(asked)
    request = ChatRequest(
        id=id,
        model=asked.model or "",
        messages=tuple(_messages(asked.messages[:-1] if so_far else asked.messages)),
        sampling=_sampling(asked, max_completion_tokens=asked.max_completion_tokens),
        stop=_stop(asked),
        tools=_tools(asked),
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        json_schema=_json_schema(asked),
        grammar=asked.grammar,
        thinking=_thinking(asked),
        so_far=so_far,
    )
    if request.tools and (request.json_schema is not None or request.grammar is not None):
        param = "grammar" if request.json_schema is None else "response_format"
        raise BadRequest(f"{param} together with tools is not supported yet", param=param)
    return ChatCall(request, asked.n or 1, bool(asked.stream), _include_usage(asked))


def decode_completion(body: bytes, *, id: str) -> CompletionCall:
    """With several prompts, `id` is followed by a dash and the prompt's place."""
    asked = _COMPLETION.read(body)
    n = asked.n or 1
    if asked.best_of not in (None, n):
        raise BadRequest(f"best_of must be equal to n ({n}): answers are not ranked", param="best_of")
    if asked.echo and asked.logprobs is not None:
        raise BadRequest("logprobs of the echoed prompt are not supported", param="logprobs")
    alone = ChatRequest(
        id=id,
        model=asked.model or "",
        sampling=_sampling(asked),
        stop=_stop(asked),
        logprobs=asked.logprobs,
        json_schema=_json_schema(asked),
        grammar=asked.grammar,
    )
    if isinstance(asked.prompt, str):
        requests = [msgspec.structs.replace(alone, prompt=asked.prompt)]
    else:
        requests = [
            msgspec.structs.replace(alone, prompt=prompt, id=f"{id}-{i}")
            for i, prompt in enumerate(asked.prompt)
        ]
    return CompletionCall(tuple(requests), n, bool(asked.stream), _include_usage(asked), bool(asked.echo))


def decode_embeddings(body: bytes, *, id: str) -> EmbedCall:
    asked = _EMBEDDINGS.read(body)
    texts = (asked.input,) if isinstance(asked.input, str) else tuple(asked.input)
    return EmbedCall(EmbedRequest(model=asked.model, texts=texts, id=id), asked.encoding_format == "base64")


def _so_far(asked: types.ChatBody) -> SoFar | None:
    """The last message, where it is the beginning of the answer."""
    if asked.add_generation_prompt is bool(asked.continue_final_message):
        text = "add_generation_prompt is the opposite of continue_final_message: leave it out"
        raise BadRequest(text, param="add_generation_prompt")
    if not asked.continue_final_message:
        return None
    last = asked.messages[-1]
    if not isinstance(last, types.AssistantMessage) or last.tool_calls or len(asked.messages) < 2:
        text = (
            "continue_final_message needs a last message by the assistant, without tool_calls, behind others"
        )
        raise BadRequest(text, param="continue_final_message")
    return SoFar(_text(last.content or ""), last.reasoning_content or "")


def _messages(sent: list[types.ChatMessage]) -> Iterator[Message]:
    for i, message in enumerate(sent):
        match message:
            case types.SystemMessage() | types.DeveloperMessage():
                yield Message("system", _text(message.content))
            case types.UserMessage():
                yield Message("user", _text(message.content))
            case types.AssistantMessage():
                yield _assistant(message, f"messages[{i}]")
            case types.ToolMessage():
                yield Message("tool", _text(message.content), tool_call_id=message.tool_call_id)


def _assistant(message: types.AssistantMessage, place: str) -> Message:
    content = message.content if message.content is not None else message.refusal
    if content is None and not message.tool_calls:
        param = f"{place}.content"
        raise BadRequest(f"{param} is required where there are no tool_calls", param=param)
    calls = (
        ToolCall(i, call.id, call.function.name, call.function.arguments)
        for i, call in enumerate(message.tool_calls or ())
    )
    return Message("assistant", _text(content or ""), tool_calls=tuple(calls))


def _text(content: types.Content) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, types.TextPart) else part.refusal for part in content)


def _sampling(asked: types.Generation, max_completion_tokens: int | None = None) -> Sampling:
    return Sampling(
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p,
        repeat_penalty=_agreed(
            {"repeat_penalty": asked.repeat_penalty, "repetition_penalty": asked.repetition_penalty}
        ),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.logit_bias or {},
        seed=asked.seed,
        max_tokens=_agreed({"max_tokens": asked.max_tokens, "max_completion_tokens": max_completion_tokens}),
    )


def _thinking(asked: types.ChatBody) -> bool | None:
    effort, switches = asked.reasoning_effort, asked.chat_template_kwargs
    return _agreed(
        {
            "enable_thinking": asked.enable_thinking,
            "chat_template_kwargs.enable_thinking": switches.enable_thinking if switches else None,
            "reasoning_effort": _THINKS.get(effort, True) if effort else None,
        }
    )


def _agreed(given: Mapping[str, T | None]) -> T | None:
    """The one value given under several names for the same thing."""
    named = [(name, value) for name, value in given.items() if value is not None]
    for name, value in named[1:]:
        if value != named[0][1]:
            raise BadRequest(f"{name} contradicts {named[0][0]}: give only one of them", param=name)
    return named[0][1] if named else None


def _stop(asked: types.Generation) -> tuple[str, ...]:
    return (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())


def _include_usage(asked: types.Generation) -> bool:
    if asked.stream_options is None:
        return False
    if not asked.stream:
        raise BadRequest("stream_options needs stream to be true", param="stream_options")
    return bool(asked.stream_options.include_usage)


def _tools(asked: types.ChatBody) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for i, tool in enumerate(asked.tools or ()):
        function, place = tool.function, f"tools[{i}].function"
        if function.name in tools:
            raise BadRequest(f'{place}.name: there are two tools "{function.name}"', param=f"{place}.name")
        parameters = function.parameters or {}
        schemas.check(parameters, f"{place}.parameters")
        if parameters.get("type", "object") != "object":
            text = f'{place}.parameters must be the schema of an object: its "type" must be "object"'
            raise BadRequest(text, param=f"{place}.parameters")
        tools[function.name] = Tool(function.name, function.description or "", parameters)
    return () if asked.tool_choice == "none" else tuple(tools.values())


def _json_schema(asked: types.Generation) -> JsonSchema | None:
    match asked.response_format:
        case types.JsonObjectFormat():
            schema: JsonSchema = {"type": "object"}
        case types.JsonSchemaFormat(json_schema=named):
            schema = named.schema
            schemas.check(schema, "response_format.json_schema.schema")
        case _:
            return None
    if asked.grammar is not None:
        text = "grammar and a JSON response_format contradict each other: give only one of them"
        raise BadRequest(text, param="grammar")
    return schema
