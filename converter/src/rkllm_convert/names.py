"""Names of models and files, which say what was passed to the toolkit and nothing else."""

from __future__ import annotations

import re
from typing import Any, Mapping

from rkllm_convert.errors import BadInput

# What rkllama takes for a model's folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]{0,63}")


def check_name(name: str) -> str:
    """The name itself. Raises `BadInput` for one that could be no folder's."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"'{name[:80]}' cannot name a model: use up to 64 letters, digits, dots and dashes (--name)"
        )
    return name


def file_name(name: str, build: Mapping[str, Any], release: str) -> str:
    """The .rkllm file's name, made of the very arguments of `build`. rkllama reads the dtype, the level and
    the hybrid rate out of it again."""
    parts = [
        name,
        str(build["target_platform"]),
        str(build["quantized_dtype"]),
        str(build["quantized_algorithm"]),
        f"opt-{build['optimization_level']}",
        f"hybrid-{build['hybrid_rate']:g}",
        f"npu{build['num_npu_core']}",
    ]
    if "max_context" in build:
        parts.append(f"ctx{build['max_context']}")
    return "-".join([*parts, f"tk{release}"]) + ".rkllm"
