"""Where a model is: a path, or a repository of the Hugging Face hub, whose files are fetched when needed.

`huggingface_hub` keeps them in its cache, goes on where a download broke off, and reads HF_TOKEN, HF_ENDPOINT
and HF_HOME itself. It is imported here only.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from rkllm_convert import source
from rkllm_convert.errors import BadInput, NotReady
from rkllm_convert.source import Source

_HUB = re.compile(
    r"(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^:]+\.gguf))?"
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class Found:
    """A model, described. `source.path` is only whole once `fetch` has returned, which needs the network
    where not `here`."""

    source: Source
    here: bool
    fetch: Callable[[Callable[[str], None]], Source]


def find(model: str) -> Found:
    """What `model` names: a folder, a .gguf file, or USER/REPO[@REVISION][:FILE.gguf] of the hub. Of the
    latter only the small files are fetched, and a GGUF file.

    Raises `BadInput` for what is no model, `NotReady` where the hub cannot be reached or refuses.
    """
    path = Path(model).expanduser()
    if path.exists():
        local = source.read(path)
        return Found(local, True, lambda said: local)
    match = _HUB.fullmatch(model)
    if match is None or model.startswith((".", "/", "~")):
        raise BadInput(f"{model} is not there. Give a folder, a .gguf file, or USER/REPO of the hub.")
    repository, file = match["repository"], match["file"]
    commit, sizes = _listing(repository, match["revision"])
    if file:
        whole = _download(repository, commit, file)
        described = source.read(whole, repository=repository, revision=commit)
        return Found(described, True, lambda said: described)
    small = [name for name in sizes if "/" not in name and not name.endswith(_WEIGHTS)]
    if "config.json" not in small:
        files = ", ".join(name for name in sizes if name.endswith(".gguf")) or "no model"
        raise BadInput(f"{repository} has no config.json, but {files}: name a file as {repository}:FILE.gguf")
    folder = _download(repository, commit, "config.json").parent
    for name in small:
        _download(repository, commit, name)
    described = source.read(folder, repository=repository, revision=commit, sizes=sizes)

    def fetch(said: Callable[[str], None]) -> Source:
        for name in _weights(sizes):
            said(f"{name} ({sizes[name] / 1e9:.1f} GB)")
            _download(repository, commit, name)
        # Counted now that the weights are here.
        return replace(source.read(folder, repository=repository, revision=commit), path=folder)

    return Found(described, False, fetch)


def _weights(sizes: dict[str, int]) -> list[str]:
    tops = [name for name in sorted(sizes) if "/" not in name]
    tensors = [name for name in tops if name.endswith(".safetensors")]
    return tensors or [name for name in tops if name.startswith("pytorch_model") and name.endswith(".bin")]


def _listing(repository: str, revision: str | None) -> tuple[str, dict[str, int]]:
    from huggingface_hub import HfApi

    try:
        found = HfApi(os.environ.get("HF_ENDPOINT") or None).model_info(
            repository, revision=revision, files_metadata=True
        )
    except Exception as error:  # of several libraries, by the hub's release
        raise _failure(repository, error) from error
    files = found.siblings or []
    return str(found.sha), {each.rfilename: each.size or 0 for each in files}


def _download(repository: str, commit: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        return Path(hf_hub_download(repository, name, revision=commit, endpoint=endpoint))
    except Exception as error:
        raise _failure(f"{repository}/{name}", error) from error


def _failure(what: str, error: Exception) -> NotReady:
    said = str(error).strip().splitlines()
    first = (said[0] if said else type(error).__name__).rstrip(".")
    return NotReady(
        f"{what} cannot be fetched: {first}. Check its name; gated and private models want HF_TOKEN, and "
        "HF_ENDPOINT names a mirror. Run the same command again: what has come is kept."
    )
