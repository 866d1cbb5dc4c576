import pytest

from exo.chat import Tool
from exo.errors import BadRequest
from exo.wire.tools import offered


@pytest.mark.parametrize("name", ["add", "server.add", "sumar_números", "加", "a" * 128])
def test_a_name_may_be_in_any_language(name: str) -> None:
    assert offered([("tools[0]", Tool(name))]) == {name: Tool(name)}


@pytest.mark.parametrize(
    "name", ["", "a" * 129, 'x", "arguments": y', "a b", "a\n", "</tool_call>", "[ARGS]", "\\"]
)
def test_a_name_that_would_break_what_models_write_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="without quotes") as refused:
        offered([("tools[0].function", Tool(name))])
    assert refused.value.param == "tools[0].function.name"


def test_two_of_one_name_and_what_is_no_object_are_refused() -> None:
    with pytest.raises(BadRequest, match='two tools "a"'):
        offered([("tools[0]", Tool("a")), ("tools[1]", Tool("a"))])
    with pytest.raises(BadRequest, match=r"tools\[0\].input_schema must be the schema of an object"):
        offered([("tools[0]", Tool("a", "", {"type": "array"}))], "input_schema")
