"""What Anthropic's clients ask: request bodies to values.

`decode_*` turn a body into what was asked, or raise `BadRequest` with `param` naming the key at fault; they
raise nothing else, whatever the bytes. Types and ranges are checked by the structs of `request_types`; here
is what concerns several keys at once.
"""

import msgspec

from exo.chat import ChatRequest, JsonSchema, Message, Sampling, Tool
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.anthropic import history
from exo.wire.anthropic import request_types as types
from exo.wire.anthropic.calls import MessagesCall
from exo.wire.efforts import effort
from exo.wire.json import Reader
from exo.wire.tools import offered

_MESSAGES = Reader(types.AnthropicMessages)
_COUNT = Reader(types.AnthropicCountTokens)


def decode_messages(body: bytes, *, id: str) -> MessagesCall:
    asked = _MESSAGES.read(body)
    if isinstance(asked.thinking, types.AnthropicThinkingEnabled):
        budget, limit = asked.thinking.budget_tokens, asked.max_tokens
        if budget >= limit:
            raise BadRequest(
                f"thinking.budget_tokens ({budget}) must be less than max_tokens ({limit}), which counts "
                "thoughts, too",
                param="thinking.budget_tokens",
            )
    sampling = Sampling(
        temperature=asked.temperature, top_p=asked.top_p, top_k=asked.top_k, max_tokens=asked.max_tokens
    )
    request = msgspec.structs.replace(
        _request(asked, id), sampling=sampling, stop=tuple(asked.stop_sequences or ())
    )
    return MessagesCall(
        request=request,
        stream=bool(asked.stream),
        shows_thinking=_shows(asked.thinking),
        edits_context=bool(asked.context_management),
    )


def decode_count_tokens(body: bytes, *, id: str) -> ChatRequest:
    """The request whose prompt's tokens are to be counted."""
    return _request(_COUNT.read(body), id)


def _request(asked: types.Conversation, id: str) -> ChatRequest:
    """What is asked, but for how the answer is drawn."""
    if asked.mcp_servers:
        text = "mcp_servers are not supported: have the client ask them, and send their tools"
        raise BadRequest(text, param="mcp_servers")
    messages, so_far = history.messages(asked)
    thinking, budget = _thinking(asked, messages)
    request = ChatRequest(
        id=id,
        model=asked.model,
        messages=messages,
        tools=_tools(asked),
        must_call=_must_call(asked),
        parallel_calls=not (
            isinstance(asked.tool_choice, types.Choice) and asked.tool_choice.disable_parallel_tool_use
        ),
        json_schema=_schema(asked),
        thinking=thinking,
        thinking_budget=budget,
        so_far=so_far,
    )
    if request.must_call and request.json_schema is not None:
        param = "output_format" if asked.output_format else "output_config.format"
        text = f"{param} is of no use where tool_choice says that a tool has to be called"
        raise BadRequest(text, param=param)
    return request


def _tools(asked: types.Conversation) -> tuple[Tool, ...]:
    tools = offered(
        (
            (f"tools[{i}]", Tool(tool.name, tool.description or "", tool.input_schema))
            for i, tool in enumerate(asked.tools or ())
        ),
        "input_schema",
    )
    return () if isinstance(asked.tool_choice, types.AnthropicChoiceNone) else tuple(tools.values())


def _must_call(asked: types.Conversation) -> tuple[str, ...]:
    names = tuple(tool.name for tool in asked.tools or ())
    match asked.tool_choice:
        case types.AnthropicChoiceAny() if not names:
            raise BadRequest('tool_choice is "any", and there are no tools', param="tool_choice")
        case types.AnthropicChoiceAny():
            return names
        case types.AnthropicChoiceTool(name=name) if name not in names:
            raise BadRequest(f'tool_choice.name: there is no tool "{name[:64]}"', param="tool_choice.name")
        case types.AnthropicChoiceTool(name=name):
            return (name,)
    return ()


def _schema(asked: types.Conversation) -> JsonSchema | None:
    now, older = asked.output_config and asked.output_config.format, asked.output_format
    if now and older and now != older:
        raise BadRequest(
            "output_format contradicts output_config.format: give only one of them", param="output_format"
        )
    format = now or older
    if format is None:
        return None
    schemas.check(format.schema, "output_config.format.schema" if now else "output_format.schema")
    return format.schema


def _thinking(asked: types.Conversation, messages: tuple[Message, ...]) -> tuple[bool | None, int | None]:
    """Whether to think, and the most tokens of thought. Effort bounds a thought, and asks for none."""
    name = asked.output_config and asked.output_config.effort
    most = effort(name)[1] if name else None
    match asked.thinking:
        case types.AnthropicThinkingEnabled(budget_tokens=budget):
            return True, budget
        case types.AnthropicThinkingDisabled():
            return False, None
        case types.AnthropicThinkingBetweenTools() if messages[-1].role != "tool":
            return False, None
    return None, most


def _shows(thinking: types.AnthropicThinkingConfig | None) -> bool:
    return not (isinstance(thinking, types.Thinking) and thinking.display == "omitted")
