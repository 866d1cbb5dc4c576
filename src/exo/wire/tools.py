"""What every dialect checks of the tools it is sent, and of the calls it is to pass on as objects."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from exo.chat import Tool
from exo.errors import BadRequest, EngineFailed
from exo.wire import schemas

# Models write names within JSON or between tags.
_NAME = re.compile(r"[^\"\\<>\[\]{}\x00-\x20\x7f]{1,128}")


def offered(tools: Iterable[tuple[str, Tool]], parameters: str = "parameters") -> dict[str, Tool]:
    """The tools by name, each given with its place in the request; `parameters` is what the dialect calls
    their schemas. Raises `BadRequest` for two of one name, and for a schema that is no object's or too large.
    """
    found: dict[str, Tool] = {}
    for place, tool in tools:
        if tool.name in found:
            raise BadRequest(f'{place}.name: there are two tools "{tool.name}"', param=f"{place}.name")
        found[tool.name] = tool
        if not _NAME.fullmatch(tool.name):
            text = f"{place}.name must be 1 to 128 characters, without quotes, backslashes and brackets"
            raise BadRequest(text, param=f"{place}.name")
        param = f"{place}.{parameters}"
        schemas.check(tool.parameters, param)
        if tool.parameters.get("type", "object") != "object":
            raise BadRequest(
                f'{param} must be the schema of an object: its "type" must be "object"', param=param
            )
    return found


def arguments(name: str, text: str) -> Raw:
    """Those of a call of `name`, as an object on one line, as lines are what the parts of a stream are told
    apart by. Raises `EngineFailed` where they are no object."""
    try:
        msgspec.json.decode(text or "{}", type=dict[str, Any])
        return Raw(msgspec.json.format(text or "{}", indent=-1))
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineFailed(f"the model called '{name}' with broken arguments: {error}") from error
