"""Renders a conversation through a model's own chat template, as its makers trained it."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import msgspec
from jinja2 import TemplateError

from exo.chat import ChatRequest, Message, Tool, ToolCall
from exo.errors import BadRequest, EngineFailed
from exo.generation import sandbox
from exo.text.calls import style_of
from exo.text.thoughts import THINK, tags_of

_SWITCH = "enable_thinking"
# Qwen3's soft switches: a word by itself, at either end of a message.
_SOFT = re.compile(r"\A/(?P<first>no_)?think(?:\s|\Z)|(?:\A|\s)/(?P<last>no_)?think\s*\Z")

# What a program of Jinja's does that has a fault; each of these is Python's.
_FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class Rendered(msgspec.Struct, frozen=True):
    """A prompt. `opened` says that it ends inside a thought, `may_think` that the answer may begin with
    one."""

    prompt: str
    opened: bool = False
    may_think: bool = False


class ChatTemplate:
    """A compiled template. It comes with the model, so it runs in Jinja's sandbox, and within bounds (see
    `sandbox`).

    The environment is what transformers gives templates (documented under "chat templating"): trimmed
    blocks, `raise_exception`, `strftime_now`, `tojson` that keeps order and does not escape for HTML.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        """Raises `EngineFailed` where the source is no template."""
        if len(source) > sandbox.MOST_SOURCE:
            raise EngineFailed(f"the model's chat template is longer than {sandbox.MOST_SOURCE} characters")
        environment = sandbox.environment()
        environment.add_filter("tojson", _tojson)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        try:
            self._template = environment.from_string(source)
        except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            # The others are Python's, for what a template was made into: blocks within blocks within blocks.
            raise EngineFailed(f"the model's chat template is broken: {error}") from error
        self._tokens = {"bos_token": bos, "eos_token": eos}
        tags = tags_of(source)
        self._switchable = _SWITCH in source
        self._thinks = tags is not None
        self.tags = tags or THINK
        """What begins and ends the model's thoughts."""
        self.style = style_of(source)
        """How it writes calls; None where it takes no tools."""

    def render(self, request: ChatRequest) -> Rendered:
        """The prompt of a conversation.

        Raises `BadRequest` for what the template cannot express: thinking it cannot switch, tools it does
        not know, an order of roles it refuses. `EngineFailed` where it has a fault, or does not end.
        """
        if request.tools and not self.style:
            raise BadRequest("this model's chat template takes no tools", param="tools")
        thinking = self._thinking(request)
        options = {} if thinking is None else {_SWITCH: thinking}
        try:
            given = {
                "messages": [_message(message) for message in self._messages(request)],
                "tools": [_tool(tool) for tool in request.tools] or None,
                "add_generation_prompt": True,
                **self._tokens,
                **options,
            }
            prompt = self._template.render(sandbox.variables(given))
        except sandbox.TooMuch as error:
            raise EngineFailed(f"the model's chat template was stopped: {error}") from error
        except TemplateError as error:
            raise BadRequest(f"the model's chat template refuses this: {error}", param="messages") from error
        except _FAULTS as error:
            what = f"{type(error).__name__}: {error}"
            raise EngineFailed(f"the model's chat template fails at this conversation: {what}") from error
        opened = prompt.rstrip().endswith(self.tags.begin)
        return Rendered(prompt, opened, opened or (self._thinks and thinking is not False))

    def _thinking(self, request: ChatRequest) -> bool | None:
        """What to tell the template; None to leave it its default."""
        if self._switchable:
            wish = request.thinking
            if wish is None:
                wish = soft_switch(request.messages)
            if wish is None and (request.json_schema is not None or request.grammar is not None):
                # Whoever wants JSON and says no more wants it now.
                return False
            return wish
        if request.thinking is not None and request.thinking != self._thinks:
            can = "always thinks" if self._thinks else "does not think"
            raise BadRequest(f"model '{request.model}' {can}; leave thinking to it", param=_SWITCH)
        return None

    def _messages(self, request: ChatRequest) -> Sequence[Message]:
        """The conversation, without the words that only switch the thinking, where they do."""
        if not self._switchable:
            return request.messages
        return [
            msgspec.structs.replace(message, content=_SOFT.sub("", message.content))
            if message.role in ("user", "system")
            else message
            for message in request.messages
        ]


def soft_switch(messages: Sequence[Message]) -> bool | None:
    """What the last `/think` or `/no_think` in the conversation says; None where there is none."""
    for message in reversed(messages):
        if message.role in ("user", "system") and (found := list(_SOFT.finditer(message.content))):
            return not (found[-1]["first"] or found[-1]["last"])
    return None


def _message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    if message.reasoning:
        fields["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _arguments(call: ToolCall) -> Any:
    """As an object, which templates expect; as it stands where a model once wrote no JSON."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
