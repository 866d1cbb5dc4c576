"""The Modelfile: what an owner says of a model, in the folder of its `.rkllm` file.

Lines of `KEY=VALUE`; the value may be quoted, between three double quotes over several lines. `#` begins a
comment line. The keys are those of the first rkllama, and a few more:

    FROM="Qwen2.5-1.5B-Instruct-w8a8.rkllm"    the file, or the name of another model whose file it is
    HUGGINGFACE_PATH="Qwen/Qwen2.5-1.5B-Instruct"    says which family's chat template it has
    SYSTEM="You are brief."     TEMPERATURE=0.7     TOP_K=40     TOP_P=0.9     REPEAT_PENALTY=1.1
    PRESENCE_PENALTY=0     FREQUENCY_PENALTY=0     MIN_P=0     SEED=1     MAX_NEW_TOKENS=1024
    ENABLE_THINKING=true     NUM_CTX=4096     TEMPLATE=chatml     TIMEOUT=600     BASE_DOMAIN_ID=1
"""

import difflib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from exo.chat import Sampling
from exo.errors import EngineFailed

log = logging.getLogger(__name__)


class Modelfile(msgspec.Struct, frozen=True, kw_only=True):
    """`source` is FROM, `hub` HUGGINGFACE_PATH, `context` NUM_CTX in tokens, `template` the name of one of
    ours. `timeout` replaces the time, in seconds, that an answer may take to begin and to go on. `domain` is
    the NPU's memory domain: each holds 4 GB."""

    source: str = ""
    hub: str = ""
    system: str = ""
    sampling: Sampling = Sampling()
    thinking: bool | None = None
    context: int | None = None
    template: str = ""
    timeout: float | None = None
    domain: int | None = None


def _number(least: float, most: float = math.inf) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most:  # which nan is not, either
            raise ValueError(
                f"must be {f'from {least:g} to {most:g}' if most < math.inf else f'{least:g} or more'}"
            )
        return value

    return read


def _integer(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError(f"must be {least} or more")
        return value

    return read


def _switch(text: str) -> bool:
    known = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


# Key -> field of Modelfile or, after a dot, of its sampling; and how its value is read.
KEYS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "FROM": ("source", str),
    "HUGGINGFACE_PATH": ("hub", str),
    "SYSTEM": ("system", str),
    "TEMPERATURE": (".temperature", _number(0, 2)),
    "TOP_K": (".top_k", _integer(0)),
    "TOP_P": (".top_p", _number(0, 1)),
    "MIN_P": (".min_p", _number(0, 1)),
    "REPEAT_PENALTY": (".repeat_penalty", _number(0)),
    "PRESENCE_PENALTY": (".presence_penalty", _number(-2, 2)),
    "FREQUENCY_PENALTY": (".frequency_penalty", _number(-2, 2)),
    "SEED": (".seed", _integer(0)),
    "MAX_NEW_TOKENS": (".max_tokens", _integer(1)),
    "ENABLE_THINKING": ("thinking", _switch),
    "NUM_CTX": ("context", _integer(32)),
    "TEMPLATE": ("template", str),
    "TIMEOUT": ("timeout", _number(0.001)),
    "BASE_DOMAIN_ID": ("domain", _integer(0)),
}
# Of the first rkllama's keys, those that change no answer here, and why.
_WITHOUT_EFFECT = {
    "TOKENIZER": "the folder's tokenizer.json is used",
    "LICENSE": "it is a text for people",
    "PROPERTIES": "it is a text for people",
    "MIROSTAT": "mirostat sampling is not offered",
    "MIROSTAT_TAU": "mirostat sampling is not offered",
    "MIROSTAT_ETA": "mirostat sampling is not offered",
}
_LINE = re.compile(
    r"""\s*(?:\#[^\n]*|(?P<key>[A-Za-z_]+)\s*=[ \t]*
        (?:\"{3}(?P<long>.*?)\"{3}|"(?P<double>(?:[^"\\\n]|\\.)*)"|'(?P<single>[^'\n]*)'|(?P<bare>[^\n"'][^\n]*?|))
        [ \t]*)?(?:\n|\Z)""",
    re.DOTALL | re.VERBOSE,
)


def read(path: Path) -> Modelfile:
    """Reads a Modelfile. Raises `EngineFailed` naming the file, the line and what is wrong with it; a key
    that is not known, or has no effect here, is warned of in the log."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineFailed(f"{path} cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    for line, key, value in _pairs(path, text):
        if key not in KEYS:
            _warn(path, line, key)
            continue
        field, convert = KEYS[key]
        try:
            into, name = (sampling, field[1:]) if field.startswith(".") else (fields, field)
            into[name] = convert(value)
        except ValueError as error:
            why = str(error) if str(error).startswith("must") else "is not such a number"
            raise EngineFailed(f"{path}, line {line}: {key}={value} {why}") from None
    return Modelfile(sampling=Sampling(**sampling), **fields)


def write(path: Path, modelfile: Modelfile) -> None:
    """Writes it so that `read` gives the same; whole or not at all."""
    lines = []
    for key, (field, _) in KEYS.items():
        owner, name = (modelfile.sampling, field[1:]) if field.startswith(".") else (modelfile, field)
        value = getattr(owner, name)
        if value not in (None, ""):
            lines.append(f"{key}={_written(value)}\n")
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _written(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if "\n" in value or value.startswith('"'):
            return f'"""{value}"""'
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case _:
            return str(value)


def _pairs(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, key and value of each setting."""
    text = text.replace("\r\n", "\n")
    at = 0
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        match = _LINE.match(text, at)
        if match is None:
            shown = text[at:].split("\n", 1)[0]
            raise EngineFailed(f"{path}, line {line}: {shown!r} is not KEY=VALUE")
        if key := match["key"]:
            line += text[match.start() : match.start("key")].count("\n")
            yield line, key.upper(), _value(match)
        at = match.end()


def _value(match: re.Match[str]) -> str:
    if (long := match["long"]) is not None:
        return long
    if (double := match["double"]) is not None:
        return re.sub(r"\\(.)", r"\1", double)
    return next(found for name in ("single", "bare") if (found := match[name]) is not None)


def _warn(path: Path, line: int, key: str) -> None:
    if why := _WITHOUT_EFFECT.get(key):
        log.warning("%s, line %d: %s has no effect: %s", path, line, key, why)
        return
    near = difflib.get_close_matches(key, KEYS, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(KEYS)}"
    log.warning("%s, line %d: %s is not known and has no effect%s", path, line, key, hint)
