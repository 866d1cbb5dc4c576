"""The functions a Responses request offers to the model, and which of them it has to call."""

from exo.chat import Tool
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.responses import request_types as types
from exo.wire.tools import offered as checked


def offered(asked: types.ResponsesBody) -> tuple[Tool, ...]:
    """The functions that the model is shown: where only some are allowed, those."""
    places = [(f"tools[{i}]", function) for i, function in enumerate(asked.tools or ())]
    tools = checked((place, _tool(function, place)) for place, function in places)
    match asked.tool_choice:
        case "none":
            return ()
        case types.AllowedFunctions(tools=allowed):
            known = (_known(each.name, tools, f"tool_choice.tools[{i}]") for i, each in enumerate(allowed))
            return tuple({tool.name: tool for tool in known}.values())
    return tuple(tools.values())


def must_call(asked: types.ResponsesBody, tools: tuple[Tool, ...]) -> tuple[str, ...]:
    """The names of those of the offered `tools` of which one has to be called; () for none."""
    match asked.tool_choice:
        case types.ChosenFunction(name=name):
            return (_known(name, {tool.name: tool for tool in tools}, "tool_choice").name,)
        case "required" | types.AllowedFunctions(mode="required"):
            if not tools:
                raise BadRequest('tool_choice "required" needs tools', param="tool_choice")
            return tuple(tool.name for tool in tools)
    return ()


def _tool(function: types.ResponsesFunction, place: str) -> Tool:
    if function.defer_loading:
        text = f"{place}.defer_loading must be false: this server searches no tools, so all of them are sent"
        raise BadRequest(text, param=f"{place}.defer_loading")
    schemas.check(function.output_schema, f"{place}.output_schema")
    return Tool(function.name, function.description or "", function.parameters or {})


def _known(name: str, tools: dict[str, Tool], place: str) -> Tool:
    if name not in tools:
        raise BadRequest(f'{place}.name: there is no tool "{name}"', param=f"{place}.name")
    return tools[name]
