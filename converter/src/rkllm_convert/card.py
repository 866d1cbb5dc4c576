"""What lies beside a .rkllm file: `card.json`, and the Modelfile and tokenizer files that rkllama reads.

The layout is rkllama's: a folder of the model's name with one .rkllm file, a Modelfile (lines of KEY=VALUE),
tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja. The template is put
into tokenizer_config.json, too, as whoever pulls a model from a hub gets that file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Mapping

from rkllm_convert import __version__, steps
from rkllm_convert.errors import BadInput
from rkllm_convert.plan import Plan
from rkllm_convert.source import Source, fingerprint

CARD, MODELFILE, TEMPLATE = "card.json", "Modelfile", "chat_template.jinja"
_TOKENIZER_CONFIG, _GENERATION = "tokenizer_config.json", "generation_config.json"
_BESIDE = ("tokenizer.json", _GENERATION)
# generation_config.json -> the Modelfile's key.
_SAMPLING = {
    "temperature": "TEMPERATURE",
    "top_k": "TOP_K",
    "top_p": "TOP_P",
    "repetition_penalty": "REPEAT_PENALTY",
}


def card(
    plan: Plan,
    source: Source,
    *,
    file: str,
    size: int,
    checksum: str,
    key: str,
    context: int | None,
    calibration: Mapping[str, Any] | None,
    lora: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The card, as JSON has it. `context` is what the file was made for, in tokens."""
    return {
        "format": 1,
        "name": plan.name,
        "file": file,
        "bytes": size,
        "sha256": checksum,
        # Where no commit is known, the fingerprint says which version it was.
        "source": {
            "repository": source.repository or source.name,
            "revision": source.revision,
            "fingerprint": fingerprint(source),
        },
        "architecture": source.architecture,
        "parameters": source.parameters,
        "toolkit": plan.release,
        "platform": plan.build["target_platform"],
        "dtype": plan.build["quantized_dtype"],
        "algorithm": plan.build["quantized_algorithm"],
        "optimization_level": plan.build["optimization_level"],
        "hybrid_rate": plan.build["hybrid_rate"],
        "npu_cores": plan.build["num_npu_core"],
        "load": dict(plan.load),
        "context": context,
        "calibration": dict(calibration) if calibration else None,
        "lora": list(lora),
        "template": _sha256_of(source.template),
        "thinking": source.thinking,
        "converter": __version__,
        "key": key,
    }


def read(folder: Path) -> dict[str, Any]:
    """The card in a folder. Raises `BadInput` where there is none of ours."""
    path = folder / CARD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != 1:
            raise ValueError("it is none of this converter's")
        if Path(str(found["file"])).name != found["file"] or not (folder / found["file"]).is_file():
            raise ValueError("the file it names is not there")
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} cannot be used: {error}. Convert the model again.") from error
    return found


def modelfile(name: str, source: Source, context: int | None) -> str:
    """The Modelfile: the file, where it is from, its context, and the sampling that its makers advise."""
    lines = [f"FROM={_quoted(name)}", f"HUGGINGFACE_PATH={_quoted(source.repository or source.name)}"]
    if context is not None:
        lines.append(f"NUM_CTX={context}")
    return "\n".join([*lines, *_sampling(source)]) + "\n"


def write(folder: Path, described: Mapping[str, Any], recipe: str, source: Source) -> None:
    """Writes card and Modelfile, and copies what rkllama needs beside them, as far as the model has it."""
    (folder / CARD).write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / MODELFILE).write_text(recipe, encoding="utf-8")
    for name in _BESIDE:
        if source.path.is_dir() and (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    if source.template:
        (folder / TEMPLATE).write_text(source.template, encoding="utf-8")
    config = source.path / _TOKENIZER_CONFIG
    if source.path.is_dir() and config.is_file():
        found = json.loads(config.read_text(encoding="utf-8"))
        if source.template:
            found["chat_template"] = source.template
        (folder / _TOKENIZER_CONFIG).write_text(
            json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8"
        )


def checked(folder: Path) -> dict[str, Any]:
    """The card of a folder whose .rkllm file is the one that was made. Raises `BadInput` where it is not."""
    found = read(folder)
    if steps.sha256(folder / found["file"]) != found["sha256"]:
        raise BadInput(
            f"{folder / found['file']} is not what its card says: its checksum differs. Convert again."
        )
    return found


def _sampling(source: Source) -> list[str]:
    path = source.path / _GENERATION
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}. Download it again.") from error
    if found.get("do_sample") is False:
        return ["TEMPERATURE=0"]
    numbers = {key: found.get(name) for name, key in _SAMPLING.items()}
    return [f"{key}={value:g}" for key, value in numbers.items() if isinstance(value, (int, float))]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _sha256_of(text: str) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest() if text else None
