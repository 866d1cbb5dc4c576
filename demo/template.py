"""Renders the chat template as transformers would, so that training sees what serving will send."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

PATH = Path(__file__).with_name("chat_template.jinja")


def render(
    messages: list[Any], *, tools: list[Any] | None = None, answering: bool, thinking: bool = True
) -> str:
    """The text of a conversation; `answering` ends it where the assistant is to go on."""
    return _template().render(
        messages=messages,
        tools=tools or None,
        add_generation_prompt=answering,
        enable_thinking=thinking,
    )


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # Jinja's own filter escapes for HTML and sorts the keys.
    tojson: Callable[[Any], str] = lambda value: json.dumps(value, ensure_ascii=False)  # noqa: E731
    environment.filters["tojson"] = tojson
    return environment.from_string(PATH.read_text(encoding="utf-8"))
