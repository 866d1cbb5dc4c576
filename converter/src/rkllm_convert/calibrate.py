"""Calibration data: what the toolkit measures activations on, to choose scales that lose little.

A JSON list of `{"input": templated prompt, "target": answer}`; about 20 rows are usual. Prompts are chosen
from the bundled list by a seed, evenly over its kinds, the same ones on every machine. The model answers them
itself, greedily; one that thinks on request does so for every other prompt. A row that is written is not
written again after a break.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Callable, Sequence

from rkllm_convert import process
from rkllm_convert.errors import BadInput, ToolkitFailed
from rkllm_convert.log import Progress
from rkllm_convert.source import Source

PROMPTS = Path(__file__).with_name("prompts.json")
# As long as the vendor's example makes them.
TOKENS = 128
_CHILD = Path(__file__).with_name("children") / "answer_prompts.py"


def prompts() -> dict[str, list[str]]:
    """The bundled prompts by kind."""
    found: dict[str, list[str]] = json.loads(PROMPTS.read_text(encoding="utf-8"))
    return found


def chosen(count: int, seed: int) -> list[str]:
    """So many prompts, in turn of each kind. Raises `BadInput` where there are not so many."""
    kinds = {
        kind: sorted(texts, key=lambda text: _order(seed, text)) for kind, texts in sorted(prompts().items())
    }
    most = sum(map(len, kinds.values()))
    if not 1 <= count <= most:
        raise BadInput(f"--calibrate {count}: there are {most} prompts. Give 1 to {most}, or --dataset FILE.")
    found: list[str] = []
    while len(found) < count:
        for texts in kinds.values():
            if texts and len(found) < count:
                found.append(texts.pop(0))
    return found


def generate(
    python: str,
    source: Source,
    texts: Sequence[str],
    folder: Path,
    *,
    device: str,
    dtype: str,
    on_progress: Callable[[Progress], None],
) -> bytes:
    """The data as JSON, written by the model in `source`. Rows that an earlier run has left in `folder` are
    taken up. Raises `ToolkitFailed` with what the log says."""
    rows, log = folder / "calibration.jsonl", folder / "calibration.log"
    switchable = source.thinking == "on request"
    job = {
        "model": str(source.path),
        "prompts": [
            {"text": text, "thinking": number % 2 == 0 if switchable else None}
            for number, text in enumerate(texts)
        ],
        "templated": bool(source.template),
        "out": str(rows),
        "device": device,
        "dtype": dtype,
        "tokens": TOKENS,
    }
    _keep_whole_lines(rows)
    status, reader = process.watch(python, _CHILD, job, folder, log, on_progress)
    if status:
        problem = reader.problem()
        says = f"{problem.says}. {problem.remedy}" if problem else (reader.errors or ["it says no more"])[-1]
        raise ToolkitFailed(
            f"Writing calibration data ended with {process.ending(status)}: {says} Its log: {log}",
            code=problem.code if problem else "",
        )
    listed = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    if len(listed) != len(texts) or any(not row["target"].strip() for row in listed):
        raise ToolkitFailed(f"The model left prompts without an answer: see {rows}")
    return json.dumps(listed, ensure_ascii=False, indent=1).encode()


def read(path: Path) -> tuple[bytes, int]:
    """A file of the user's, and how many rows it has. Raises `BadInput` naming the first that is none."""
    try:
        content = path.read_bytes()
        rows: Any = json.loads(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"--dataset {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise BadInput(f'--dataset {path} is no list of {{"input": prompt, "target": answer}}')
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict) and set(row) == {"input", "target"}
        if not good or not all(isinstance(text, str) and text for text in row.values()):
            raise BadInput(
                f'--dataset {path}, row {number}: it has to be {{"input": prompt, "target": answer}}, both '
                "texts that are not empty"
            )
    return content, len(rows)


def _order(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()


def _keep_whole_lines(path: Path) -> None:
    """A row that was being written when the process died is dropped."""
    if path.is_file():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])
