"""What is to be converted: a Hugging Face folder or a GGUF file, as its own files describe it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Mapping

from rkllm_convert import gguf
from rkllm_convert.errors import BadInput

_TORCH_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Folders that a name is not taken from: the hub's cache calls each after a commit.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHE = re.compile(r"models--(?P<user>[\w.-]+?)--(?P<name>[\w.-]+)")


@dataclass(frozen=True)
class Source:
    """A model before its conversion.

    `repository` ("user/name") and `revision` (a commit) are empty where they are not known. `bytes` is the
    size of the weights, `kv_bytes` what a token takes in a KV cache of 16 bits. `context` is in tokens, 0
    where it is not said. `quantized` says how the weights are quantised already, if they are.
    """

    kind: str  # "huggingface" or "gguf"
    path: Path
    name: str
    repository: str = ""
    revision: str = ""
    architecture: str = ""
    parameters: int = 0
    bytes: int = 0
    layers: int = 0
    kv_bytes: int = 0
    context: int = 0
    template: str = ""
    thinking: str = "no"  # "no", "on request" or "always"
    quantized: str = ""

    @property
    def billions(self) -> float:
        return self.parameters / 1e9


def read(
    path: Path, *, repository: str = "", revision: str = "", sizes: Mapping[str, int] | None = None
) -> Source:
    """Describes what is at `path`. `sizes` are those of a repository's files, where the weights are not here
    yet. Raises `BadInput` for what is no model."""
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path, repository, revision)
    if (path / "config.json").is_file():
        return _folder(path, repository, revision, sizes)
    if path.is_dir() and (files := sorted(path.glob("*.gguf"))):
        raise BadInput(f"{path} holds GGUF files: name one of them, as {files[0]}")
    raise BadInput(
        f"{path} is no model: give a folder with config.json, a .gguf file, or USER/REPO of the hub"
    )


def fingerprint(source: Source) -> str:
    """Changes when the model does: its commit, or contents of its small files, sizes and times of the large
    ones. Reading all of it would take minutes at each start."""
    if source.repository and source.revision:
        return f"{source.repository}@{source.revision}"
    return folder_digest(source.path)


def folder_digest(path: Path) -> str:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    digest = hashlib.sha256()
    for file in files:
        if file.is_file() and not file.name.startswith("."):
            stat = file.stat()
            small = stat.st_size < 1 << 24
            said = file.read_bytes() if small else f"{stat.st_size} {stat.st_mtime_ns}".encode()
            digest.update(f"{file.name}\0{len(said)}\0".encode() + said)
    return digest.hexdigest()


def thinking_of(template: str) -> str:
    """Whether the model thinks before it answers, by its chat template: "on request" where that has Qwen3's
    switch, "always" where it knows thoughts without one."""
    if "enable_thinking" in template:
        return "on request"
    return "always" if "<think>" in template or "</think>" in template else "no"


def _folder(path: Path, repository: str, revision: str, sizes: Mapping[str, int] | None) -> Source:
    config = _json(path / "config.json")
    text = config.get("text_config") or config
    heads = int(text.get("num_attention_heads") or 0)
    head = int(text.get("head_dim") or (int(text.get("hidden_size") or 0) // heads if heads else 0))
    layers = int(text.get("num_hidden_layers") or text.get("num_layers") or 0)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    found = dict(sizes) if sizes is not None else {each.name: each.stat().st_size for each in path.iterdir()}
    weights = _weights(found)
    if not weights:
        raise BadInput(f"{path} has no weights (*.safetensors or pytorch_model*.bin): fetch the whole model")
    template = _template(path)
    known = (repository, revision) if repository else _origin(path)
    return Source(
        kind="huggingface",
        path=path,
        name=known[0].rpartition("/")[2] or path.resolve().name,
        repository=known[0],
        revision=known[1],
        architecture=str(text.get("model_type") or config.get("model_type") or ""),
        parameters=_parameters(path, weights, text, config),
        bytes=sum(weights.values()),
        layers=layers,
        kv_bytes=layers * 2 * kv_heads * head * 2,
        context=int(text.get("max_position_embeddings") or text.get("seq_length") or 0),
        template=template,
        thinking=thinking_of(template),
        quantized=_quantized(config),
    )


def _gguf(path: Path, repository: str, revision: str) -> Source:
    keys, parameters = gguf.read(path)
    architecture = str(keys.get("general.architecture", ""))

    def number(name: str) -> int:
        value = keys.get(f"{architecture}.{name}", 0)
        return int(value) if isinstance(value, (int, float)) else 0

    heads = number("attention.head_count")
    head = number("attention.key_length") or (number("embedding_length") // heads if heads else 0)
    kv_heads = number("attention.head_count_kv") or heads
    template = str(keys.get("tokenizer.chat_template", ""))
    return Source(
        kind="gguf",
        path=path,
        name=re.sub(r"[-_.](?:f16|fp16|q4_0)$", "", path.stem, flags=re.IGNORECASE),
        repository=repository,
        revision=revision,
        architecture=architecture,
        parameters=parameters,
        bytes=path.stat().st_size,
        layers=number("block_count"),
        kv_bytes=number("block_count") * 2 * kv_heads * head * 2,
        context=number("context_length"),
        template=template,
        thinking=thinking_of(template),
        quantized=f"type {keys.get('general.file_type', 'unknown')}",
    )


def _weights(sizes: Mapping[str, int]) -> dict[str, int]:
    tensors = {name: size for name, size in sizes.items() if name.endswith(".safetensors")}
    older = {n: size for n, size in sizes.items() if n.startswith("pytorch_model") and n.endswith(".bin")}
    return tensors or older


def _parameters(
    path: Path, weights: Mapping[str, int], text: Mapping[str, Any], config: Mapping[str, Any]
) -> int:
    """Counted in the headers of the weights where they are here, else by their size."""
    files = [path / name for name in weights if name.endswith(".safetensors")]
    if files and all(file.is_file() for file in files):
        return sum(map(_counted, files))
    kind = str(text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return sum(weights.values()) // _TORCH_BYTES.get(kind, 2)


def _counted(file: Path) -> int:
    """Parameters in a safetensors file: its header is JSON behind its length in 8 bytes."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > 1 << 28:
                raise ValueError(f"a header of {length} bytes is beyond belief")
            header = json.loads(opened.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise BadInput(f"{file} is no safetensors file: {error}. Download it again.") from error
    return sum(_product(each["shape"]) for name, each in header.items() if name != "__metadata__")


def _product(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _template(path: Path) -> str:
    """The default chat template, from the file of its own or the tokenizer's configuration."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return _read(file)
    if not (path / "tokenizer_config.json").is_file():
        return ""
    found = _json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        found = next((each["template"] for each in found if each.get("name") == "default"), "")
    return found if isinstance(found, str) else ""


def _quantized(config: Mapping[str, Any]) -> str:
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return ""
    bits = found.get("bits") or found.get("weight_bits")
    return f"{found.get('quant_method', 'unknown')}{f' in {bits} bits' if bits else ''}"


def _origin(path: Path) -> tuple[str, str]:
    """Repository and commit of a folder in the hub's cache, or of one that `hf download` has filled."""
    whole = path.resolve()
    match = _CACHE.fullmatch(whole.parent.parent.name)
    if match and _COMMIT.fullmatch(whole.name):
        return f"{match['user']}/{match['name']}", whole.name
    noted = path / ".cache" / "huggingface" / "download" / "config.json.metadata"
    if noted.is_file():
        commit = _read(noted).split("\n", 1)[0].strip()
        return "", commit if _COMMIT.fullmatch(commit) else ""
    return "", ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}. Download it again.") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no object. Download it again.")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
