"""What clients of the OpenAI dialect ask: request bodies to values.

`decode_*` turn a body into what was asked, or raise `BadRequest` with `param` naming the key at fault; they
raise nothing else, whatever the bytes. Types and ranges are checked by the structs of `request_types`; here
is what concerns several keys at once.
"""

from collections.abc import Collection, Iterator, Sequence

import msgspec

from exo.chat import ChatRequest, EmbedRequest, JsonSchema, Message, Sampling, SoFar, Tool, ToolCall
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.efforts import effort
from exo.wire.json import Reader, agreed
from exo.wire.openai import request_types as types
from exo.wire.openai.calls import ChatCall, CompletionCall, EmbedCall
from exo.wire.tools import offered

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
    messages = _messages(asked.messages[:-1] if so_far else asked.messages, keep=asked.keep_reasoning)
    thinking, budget = _thinking(asked)
    tools, must_call = _tools(asked)
    request = ChatRequest(
        id=id,
        model=asked.model or "",
        messages=tuple(messages),
        sampling=_sampling(asked, max_completion_tokens=asked.max_completion_tokens),
        stop=_stop(asked),
        tools=tools,
        must_call=must_call,
        parallel_calls=asked.parallel_tool_calls is not False,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        json_schema=_json_schema(asked),
        grammar=asked.grammar,
        thinking=thinking,
        thinking_budget=budget,
        so_far=so_far,
    )
    if tools and request.grammar is not None:
        text = "grammar and tools exclude each other: a grammar knows of no calls"
        raise BadRequest(text, param="grammar")
    if must_call and request.json_schema is not None:
        text = "response_format is of no use where tool_choice says that a tool has to be called"
        raise BadRequest(text, param="response_format")
    shown = asked.include_reasoning is not False
    return ChatCall(request, asked.n or 1, bool(asked.stream), _include_usage(asked), shown)


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


def _messages(sent: list[types.ChatMessage], *, keep: bool | None) -> Iterator[Message]:
    """The conversation, without earlier thoughts unless `keep` leaves them in."""
    for i, message in enumerate(sent):
        match message:
            case types.SystemMessage() | types.DeveloperMessage():
                yield Message("system", _text(message.content))
            case types.UserMessage():
                yield Message("user", _text(message.content))
            case types.AssistantMessage():
                answer = _assistant(message, f"messages[{i}]")
                yield msgspec.structs.replace(answer, reasoning="") if keep is False else answer
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
    reasoning = message.reasoning_content or ""
    return Message("assistant", _text(content or ""), tool_calls=tuple(calls), reasoning=reasoning)


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
        repeat_penalty=agreed(
            {"repeat_penalty": asked.repeat_penalty, "repetition_penalty": asked.repetition_penalty}
        ),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.logit_bias or {},
        seed=asked.seed,
        max_tokens=agreed({"max_tokens": asked.max_tokens, "max_completion_tokens": max_completion_tokens}),
    )


def _thinking(asked: types.ChatBody) -> tuple[bool | None, int | None]:
    """Whether to think, and the most tokens of it."""
    wish, switches, budget = asked.reasoning_effort, asked.chat_template_kwargs, asked.thinking_budget
    thinks, most = effort(wish) if wish else (None, None)
    thinking = agreed(
        {
            "enable_thinking": asked.enable_thinking,
            "chat_template_kwargs.enable_thinking": switches.enable_thinking if switches else None,
            "reasoning_effort": thinks,
        }
    )
    if budget is not None and thinking is False:
        raise BadRequest("thinking_budget is of no use where thinking is off", param="thinking_budget")
    return thinking, most if budget is None else budget


def _stop(asked: types.Generation) -> tuple[str, ...]:
    return (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())


def _include_usage(asked: types.Generation) -> bool:
    if asked.stream_options is None:
        return False
    if not asked.stream:
        raise BadRequest("stream_options needs stream to be true", param="stream_options")
    return bool(asked.stream_options.include_usage)


def _tools(asked: types.ChatBody) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools that may be called, and the names of those one of which has to be."""
    sent = [each.function for each in asked.tools or ()]
    tools = offered(
        (f"tools[{i}].function", Tool(function.name, function.description or "", function.parameters or {}))
        for i, function in enumerate(sent)
    )
    match asked.tool_choice:
        case None | "auto":
            return tuple(tools.values()), ()
        case "none":
            return (), ()
        case "required":
            names, must = list(tools), True
        case types.FunctionChoice(named):
            # The others stay in the prompt, which is in the model's cache with them.
            _known([named.name], tools)
            return tuple(tools.values()), (named.name,)
        case types.AllowedChoice(allowed):
            names, must = [each.function.name for each in allowed.tools], allowed.mode == "required"
    if not tools:
        raise BadRequest("tool_choice needs tools to choose from", param="tool_choice")
    _known(names, tools)
    return tuple(tools[name] for name in dict.fromkeys(names)), tuple(names) if must else ()


def _known(names: Sequence[str], tools: Collection[str]) -> None:
    for name in names:
        if name not in tools:
            text = f'tool_choice names "{name}", which is not among the tools'
            raise BadRequest(text, param="tool_choice")


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
