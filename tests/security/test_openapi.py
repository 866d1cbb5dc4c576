"""What the node says of its API, against what it does: requests made of the document, right ones and wrong
ones, by schemathesis. No answer is a 5xx but for what the document allows, and each is as it is described."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from exo.wire import openapi
from tests.e2e.node import Node, text, write_script

EXAMPLES = 10
DOCUMENT: Any = msgspec.json.decode(openapi.document("0"))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
ENDLESS = {"/v1/cluster/events"}
OPERATIONS = {
    f"{each.method} {each.path}": each
    for each in (found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok))
    if each.path not in ENDLESS
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("openapi")
    write_script(home, "hello", [text("Hello")], slots=4)
    # Nobody listens there: nothing is downloaded.
    node = Node(home, "--default-model", "hello", env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_right_requests_are_answered_as_the_document_says(node: Node, name: str) -> None:
    check(node, name, GenerationMode.POSITIVE)


@pytest.mark.parametrize("name", sorted(name for name, each in OPERATIONS.items() if each.body))
def test_wrong_requests_are_answered_as_the_document_says(node: Node, name: str) -> None:
    check(node, name, GenerationMode.NEGATIVE)


def check(node: Node, name: str, mode: GenerationMode) -> None:
    @given(case=OPERATIONS[name].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: schemathesis.Case[Any]) -> None:
        answer = case.call(base_url=node.url, timeout=30)
        checks = [*CHECKS, negative_data_rejection]
        if answer.headers.get("content-type", [""])[0].startswith("text/event-stream"):
            # To schemathesis the schema is that of an event, and to OpenAPI 3.1 that of the whole text.
            checks.remove(response_schema_conformance)
        case.validate_response(answer, checks=checks)

    holds()
    node.check_log()
