"""What every dialect checks of the tools it is sent."""

import re
from collections.abc import Iterable

from exo.chat import Tool
from exo.errors import BadRequest
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
