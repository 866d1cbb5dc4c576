"""The JSON Schema of a configuration file, made of the table."""

from collections.abc import Sequence
from typing import Any

from exo.configuration.forms import form
from exo.configuration.setting import ANY_MODEL, Setting

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(table: Sequence[Setting], title: str) -> dict[str, Any]:
    """Every key with its description, form and default; anything else is wrong."""
    whole: dict[str, Any] = {"$schema": DIALECT, "title": title, **_empty()}
    for setting in table:
        place = whole
        for name in setting.key.split(".")[:-1]:
            if name == ANY_MODEL:
                place["additionalProperties"] = place["additionalProperties"] or _empty()
                place = place["additionalProperties"]
            else:
                place = place["properties"].setdefault(name, _empty())
        place["properties"][setting.leaf] = _property(setting)
    return whole


def _empty() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "additionalProperties": False}


def _property(setting: Setting) -> dict[str, Any]:
    described: dict[str, Any] = {"description": setting.about, **form(setting).schema()}
    if setting.usual is not None:
        described["default"] = setting.usual
    else:
        described["examples"] = [setting.sample]
    return described
