"""Which chat template a model has, where its folder does not say.

The template inside an `.rkllm` file is applied by the runtime to one message at a time and cannot be read
out, so a whole conversation needs the text. It is looked for, in this order: the Modelfile's TEMPLATE, a
`chat_template.jinja` or a `tokenizer_config.json` beside the file, and last the model's family, known by its
name. The templates in `templates/` are ours, written after the formats that the models' makers document.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from exo.errors import BadRequest
from exo.generation.folder import texts

_OURS = Path(__file__).parent / "templates"
# The first that is found in a model's hub path, name or file name.
_FAMILIES: Mapping[str, str] = {
    r"deepseek[-_ ]?r1": "deepseek-r1",
    r"qwen[-_ ]?3": "qwen3",
    r"qwen|internlm|minicpm|smollm|chatml": "chatml",
    r"llama[-_ ]?3": "llama-3",
    r"phi[-_ ]?3": "phi-3",
    r"gemma": "gemma",
    r"tinyllama|zephyr": "zephyr",
}


class Template(msgspec.Struct, frozen=True):
    """A template's text, the special tokens it may name, and where it comes from."""

    source: str
    bos: str = ""
    eos: str = ""
    origin: str = ""


def template_for(folder: Path, chosen: str, *names: str) -> Template:
    """The template of the model in `folder`, called by any of `names`; `chosen` is one of ours by name.

    Raises `BadRequest` with the remedy where none is known, `EngineFailed` for a file that cannot be used.
    """
    if chosen:
        return _ours(chosen)
    beside = texts(folder)
    if beside.template:
        return Template(beside.template, beside.bos, beside.eos, str(folder))
    for pattern, name in _FAMILIES.items():
        if any(re.search(pattern, known, re.IGNORECASE) for known in names):
            return _ours(name)
    raise BadRequest(
        f"the chat template of '{names[0]}' is not known: put its tokenizer_config.json or "
        f"chat_template.jinja into {folder}, or set TEMPLATE in its Modelfile to one of "
        f"{', '.join(sorted(known_templates()))}; /v1/completions needs none",
        param="messages",
    )


def known_templates() -> frozenset[str]:
    """The names of ours."""
    return frozenset(path.stem for path in _OURS.glob("*.jinja"))


def _ours(name: str) -> Template:
    if name not in known_templates():
        known = ", ".join(sorted(known_templates()))
        raise BadRequest(f"TEMPLATE={name} in the Modelfile is none of {known}", param="messages")
    return Template((_OURS / f"{name}.jinja").read_text(encoding="utf-8"), origin=f"family {name}")
