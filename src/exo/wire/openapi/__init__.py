"""What this node's HTTP API looks like, as OpenAPI 3.1: made of the very structs that read and write it.

A file for each dialect has its paths, and the structs they name; all are made of `operations`.
"""

import msgspec

from exo.wire.openapi import (
    anthropic,
    cluster,
    downloads,
    ollama,
    openai,
    responses,
    service,
    tokens,
)
from exo.wire.openapi.operations import Json

_DIALECTS = (service, tokens, openai, cluster, downloads, ollama, responses, anthropic)


def document(version: str) -> bytes:
    """The whole document as JSON; `version` is the program's."""
    _, schemas = msgspec.json.schema_components(
        [schema for dialect in _DIALECTS for schema in dialect.SCHEMAS],
        ref_template="#/components/schemas/{name}",
    )
    paths: Json = {}
    for dialect in _DIALECTS:
        paths |= dialect.paths()
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {
                    "title": "exo",
                    "version": version,
                    "summary": "An OpenAI-compatible LLM endpoint made of the machines you own.",
                    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                },
                "security": [{}, {"key": []}],
                "paths": paths,
                "components": {
                    "schemas": schemas,
                    "securitySchemes": {
                        "key": {
                            "type": "http",
                            "scheme": "bearer",
                            "description": "Needed only where the node was started with a key.",
                        }
                    },
                },
            }
        )
    )
