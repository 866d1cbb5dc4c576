"""Renders a conversation through a model's own chat template, as its makers trained it."""

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from exo.chat import ChatRequest, Message, Tool, ToolCall
from exo.errors import BadRequest, EngineFailed

_SWITCH = "enable_thinking"
_OPENED = "<think>"


class ChatTemplate:
    """A compiled template. It comes with the model, so it runs in Jinja's sandbox.

    The environment is what transformers gives templates (documented under "chat templating"): trimmed
    blocks, `raise_exception`, `strftime_now`, `tojson` that keeps order and does not escape for HTML.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        """Raises `EngineFailed` where the source is no template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise EngineFailed(f"the model's chat template is broken: {error}") from error
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._switchable = _SWITCH in source
        self._thinks = _OPENED in source
        self._takes_tools = "tools" in source

    def render(self, request: ChatRequest) -> tuple[str, bool]:
        """The prompt, and whether it leaves the model inside an opened thought.

        Raises `BadRequest` for what the template cannot express: thinking it cannot switch, tools it does
        not know, an order of roles it refuses.
        """
        constrained = request.json_schema is not None or request.grammar is not None
        if request.thinking and constrained:
            raise BadRequest(
                "thinking and a fixed form of answer exclude each other", param="response_format"
            )
        if request.tools and not self._takes_tools:
            raise BadRequest("this model's chat template takes no tools", param="tools")
        options = (
            {_SWITCH: thinking} if (thinking := self._thinking(request, constrained)) is not None else {}
        )
        try:
            prompt = self._template.render(
                messages=[_message(message) for message in request.messages],
                tools=[_tool(tool) for tool in request.tools] or None,
                add_generation_prompt=True,
                **self._tokens,
                **options,
            )
        except TemplateError as error:
            raise BadRequest(f"the model's chat template refuses this: {error}", param="messages") from error
        opened = prompt.rstrip().endswith(_OPENED)
        if opened and constrained:
            return prompt.rstrip() + "\n\n</think>\n\n", False
        return prompt, opened

    def _thinking(self, request: ChatRequest, constrained: bool) -> bool | None:
        """What to tell the template; None to leave it its default."""
        if self._switchable:
            # The constraint holds from the first token, so there is no room for a thought before it.
            return False if constrained else request.thinking
        if request.thinking is not None and request.thinking != self._thinks:
            can = "always thinks" if self._thinks else "does not think"
            raise BadRequest(f"model '{request.model}' {can}; leave thinking to it", param=_SWITCH)
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
