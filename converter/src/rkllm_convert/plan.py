"""What will be done, or why it cannot be: decided before hours are spent. Pure.

`check` compares what was asked for with `table`, and names the nearest thing that can be done for each
refusal. What is possible but slow, risky or unknown becomes a note.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator

from rkllm_convert import estimates, table
from rkllm_convert.errors import Refused
from rkllm_convert.refusals import refusals, toolkit_of
from rkllm_convert.request import Machine, Request
from rkllm_convert.source import Source
from rkllm_convert.table import Platform, Toolkit, shown


@dataclass(frozen=True)
class Plan:
    """What the toolkit will be called with. `load` and `build` have exactly the arguments of the calls but
    paths, so a file's name and card are made of what was passed. `context` is None where the toolkit takes
    none. `rows` of calibration data will be generated."""

    name: str
    release: str
    load: dict[str, Any]
    build: dict[str, Any]
    context: int | None
    rows: int
    seed: int
    board: estimates.Board
    work: estimates.Work
    notes: tuple[str, ...]


def check(request: Request, source: Source, machine: Machine, *, fetched: bool = True) -> Plan:
    """The plan; raises `Refused` with all reasons, each with the nearest thing that can be done."""
    reasons = list(refusals(request, source, machine))
    if reasons:
        raise Refused("\n".join(reasons))
    platform = table.PLATFORMS[request.platform]
    toolkit = toolkit_of(machine)
    assert toolkit is not None  # or it was refused
    dtype = request.dtype or platform.dtypes[0]
    context = _context(request, source) if "max_context" in toolkit.build else None
    board = estimates.board(
        source,
        request.platform,
        dtype,
        context or table.DEFAULT_CONTEXT,
        level=request.optimization_level,
        hybrid_rate=request.hybrid_rate,
    )
    work = estimates.work(
        source,
        dtype,
        load_dtype=request.load_dtype,
        device=request.device,
        rows=request.calibrate,
        fetched=fetched,
    )
    if machine.disk is not None and work.disk > machine.disk:
        raise Refused(
            f"About {work.disk / 1e9:.1f} GB will be written, and {machine.disk / 1e9:.1f} GB are free. "
            "Make room, or name another disk with -o."
        )
    plan = Plan(
        name=request.name or source.name,
        release=shown(toolkit.release),
        load=_load(request, source, toolkit),
        build=_build(request, platform, dtype, context),
        context=context,
        rows=request.calibrate,
        seed=request.seed,
        board=board,
        work=work,
        notes=(),
    )
    return replace(plan, notes=tuple(_notes(request, source, machine, plan, dtype)))


def _load(request: Request, source: Source, toolkit: Toolkit) -> dict[str, Any]:
    if source.kind == "gguf":
        return {}
    wanted = {"device": request.device, "dtype": request.load_dtype}
    return {name: value for name, value in wanted.items() if name in toolkit.load}


def _build(request: Request, platform: Platform, dtype: str, context: int | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "do_quantization": True,
        "optimization_level": request.optimization_level,
        "quantized_dtype": dtype,
        "quantized_algorithm": request.algorithm,
        "num_npu_core": request.npu_cores or platform.cores,
        "extra_qparams": None,
        "hybrid_rate": request.hybrid_rate,
        "target_platform": platform.name,
    }
    if context is not None:
        arguments["max_context"] = context
    return arguments


def _context(request: Request, source: Source) -> int:
    if request.max_context is not None:
        return request.max_context
    most = source.context or table.DEFAULT_CONTEXT
    return max(min(most, table.DEFAULT_CONTEXT) // table.CONTEXT_STEP, 1) * table.CONTEXT_STEP


# Notes


def _notes(request: Request, source: Source, machine: Machine, plan: Plan, dtype: str) -> Iterator[str]:
    if source.architecture not in table.ARCHITECTURES:
        kind = source.architecture or "an unknown kind"
        yield f"The vendor's changelog names no {kind}: the toolkit may refuse this model."
    yield from _speed_notes(request, plan, dtype)
    if not request.dataset and not request.calibrate and source.kind == "huggingface":
        yield "Without calibration data the toolkit decides alone what to keep: --calibrate 20 is more exact."
    if not source.template:
        yield "The model has no chat template, so rkllama guesses its family by its name."
    if plan.board.fits == "no":
        yield f"It takes about {plan.board.memory_mb:,} MB and does not fit a board with 8 GB."
    elif plan.board.fits == "tight":
        memory = plan.board.memory_mb
        yield f"It takes about {memory:,} MB: on a board with 8 GB only with rkllama --memory 7.5GB."
    if machine.memory is not None and plan.work.memory > machine.memory:
        less = " --load-dtype bfloat16 takes half." if request.load_dtype == "float32" else ""
        yield (
            f"Converting takes about {plan.work.memory / 1e9:.0f} GB of memory, and "
            f"{machine.memory / 1e9:.0f} GB are free: it may be killed.{less}"
        )


def _speed_notes(request: Request, plan: Plan, dtype: str) -> list[str]:
    fast = table.PLATFORMS[request.platform].dtypes[0]
    found = []
    if table.group_size(dtype) is not None and table.base_dtype(dtype) == fast:
        found.append(f"{dtype} is more exact than {fast} and slower: each group has a scale of its own.")
    if request.hybrid_rate and table.group_size(dtype) is None:
        found.append(f"--hybrid-rate puts groups into {request.hybrid_rate:.0%} of {dtype}: slower by them.")
    if request.optimization_level:
        found.append("--optimization-level 1 is slow on the board; the vendor measures with 0.")
    if dtype.startswith("w4") and request.algorithm == "normal":
        found.append(
            "4 bits lose exactness with --algorithm normal; grq keeps more, on a machine with a GPU."
        )
    return found
