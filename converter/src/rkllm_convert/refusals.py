"""What cannot be done, by `table`, and the nearest thing that can. Pure."""

from __future__ import annotations

from typing import Iterator

from rkllm_convert import table
from rkllm_convert.request import Machine, Request
from rkllm_convert.source import Source
from rkllm_convert.table import Platform, Toolkit, shown


def toolkit_of(machine: Machine) -> Toolkit | None:
    """The release that the machine has, if it is known."""
    release = table.release_of(machine.toolkit or "")
    return table.toolkit(release) if release else None


def refusals(request: Request, source: Source, machine: Machine) -> Iterator[str]:
    """Why it cannot be done, each with the nearest thing that can."""
    if machine.system != "Linux" or machine.machine.lower() not in ("x86_64", "amd64"):
        yield (
            f"The toolkit runs on x86-64 Linux, and this is {machine.system} on {machine.machine}. "
            "Use the container (converter/compose.yaml), which emulates one where it has to."
        )
    yield from _toolkit_refusals(machine)
    toolkit = toolkit_of(machine)
    if request.platform not in table.PLATFORMS:
        near = table.closest(request.platform, list(table.PLATFORMS))
        yield f"Platform {request.platform} is none of {', '.join(table.PLATFORMS)}. Nearest: -p {near}."
        return
    platform = table.PLATFORMS[request.platform]
    if toolkit and toolkit.release < platform.since:
        since = shown(platform.since)
        yield f"Toolkit {machine.toolkit} knows no {platform.name}. Install {since} or later."
    yield from _quantisation_refusals(request, platform, toolkit, machine)
    yield from _number_refusals(request, source, platform, toolkit)
    yield from _source_refusals(request, source, toolkit)


def _toolkit_refusals(machine: Machine) -> Iterator[str]:
    if machine.toolkit is None:
        yield (
            "The toolkit is not installed in this Python. Install its wheel (rkllm_toolkit-*.whl, from the "
            "vendor), or name a Python that has it with --python. `rkllm-convert plan --toolkit 1.2.3` plans "
            "without one."
        )
        return
    if machine.broken:
        yield (
            f"The toolkit cannot be imported: {machine.broken}. Install the requirements.txt that came with "
            "its wheel, in the same Python."
        )
    if machine.lacks:
        yield (
            f"Toolkit {machine.toolkit} does not take {', '.join(machine.lacks)}, other than documented. "
            f"Nearest: {shown(table.TOOLKITS[-1].release)}."
        )
    toolkit = toolkit_of(machine)
    known = ", ".join(shown(each.release) for each in table.TOOLKITS)
    if toolkit is None:
        near = _nearest_release(machine)
        yield f"Toolkit {machine.toolkit} is not known here. Nearest: {near}, of {known}."
    elif machine.python not in toolkit.pythons:
        pythons = ", ".join(map(shown, toolkit.pythons))
        yield (
            f"Toolkit {machine.toolkit} is made for Python {pythons}, not {shown(machine.python)}. "
            "Name another one with --python."
        )


def _nearest_release(machine: Machine) -> str:
    release = table.release_of(machine.toolkit or "")
    older = [each.release for each in table.TOOLKITS if release and each.release <= release]
    return shown(max(older) if older else table.TOOLKITS[-1].release)


def _quantisation_refusals(
    request: Request, platform: Platform, toolkit: Toolkit | None, machine: Machine
) -> Iterator[str]:
    dtype = request.dtype or platform.dtypes[0]
    if dtype not in platform.dtypes:
        near = table.nearest_dtype(platform, dtype)
        yield f"{platform.name} has no {dtype}, only {', '.join(platform.dtypes)}. Nearest: -q {near}."
        dtype = near
    if request.algorithm not in table.ALGORITHMS:
        yield f"Algorithm {request.algorithm} is none of {', '.join(table.ALGORITHMS)}. Nearest: normal."
    elif request.algorithm in table.NEEDS_GPU:
        if not dtype.startswith("w4"):
            yield f"{request.algorithm} is for 4-bit weights, and {dtype} has 8. Nearest: --algorithm normal."
        elif toolkit and request.algorithm not in toolkit.algorithms:
            other = next(each for each in toolkit.algorithms if each != "normal")
            yield f"Toolkit {machine.toolkit} has no {request.algorithm}. Nearest: --algorithm {other}."
        elif request.device != "cuda" or not machine.cuda:
            yield (
                f"{request.algorithm} needs a CUDA GPU (--device cuda), and "
                f"{'none was asked for' if machine.cuda else 'there is none here'}. "
                "Nearest: --algorithm normal."
            )
    if request.hybrid_rate and table.mixes_with(platform, dtype) is None:
        yield (
            f"{platform.name} has nothing to mix into {dtype}: a hybrid takes it plain and in groups. "
            "Nearest: --hybrid-rate 0."
        )


def _number_refusals(
    request: Request, source: Source, platform: Platform, toolkit: Toolkit | None
) -> Iterator[str]:
    if not 0 <= request.hybrid_rate < 1:
        yield f"--hybrid-rate {request.hybrid_rate:g} is not within [0, 1). Nearest: 0."
    if request.npu_cores is not None and not 1 <= request.npu_cores <= platform.cores:
        near = min(max(request.npu_cores, 1), platform.cores)
        yield f"{platform.name} has {platform.cores} NPU cores, not {request.npu_cores}. Nearest: {near}."
    if request.optimization_level not in (0, 1):
        yield f"--optimization-level {request.optimization_level} is neither 0 nor 1. Nearest: 0."
    if request.device == "cuda" and source.kind == "gguf":
        yield "A GGUF file is loaded without a device. Nearest: --device cpu."
    default = table.LOAD_DTYPES[0]
    takes = source.kind != "gguf" and (toolkit is None or "dtype" in toolkit.load)
    if request.load_dtype != default and not takes:
        what = (
            "A GGUF file"
            if source.kind == "gguf"
            else f"With toolkit {toolkit and shown(toolkit.release)} it"
        )
        yield f"{what} is loaded as it is, not in {request.load_dtype}. Nearest: --load-dtype {default}."
    wanted = request.max_context
    if wanted is None:
        return
    if toolkit and "max_context" not in toolkit.build:
        yield (
            f"Toolkit {shown(toolkit.release)} takes no context: it is chosen on the board, with NUM_CTX in "
            "the Modelfile. Leave --max-context out, or install 1.2.0 or later."
        )
        return
    most = min(source.context or table.MOST_CONTEXT, table.MOST_CONTEXT)
    near = max(min(wanted, most) // table.CONTEXT_STEP, 1) * table.CONTEXT_STEP
    if wanted != near:
        model = f", and the model for up to {source.context}" if source.context else ""
        yield (
            f"--max-context {wanted} cannot be: contexts are multiples of {table.CONTEXT_STEP} up to "
            f"{table.MOST_CONTEXT}{model}. Nearest: {near}."
        )


def _source_refusals(request: Request, source: Source, toolkit: Toolkit | None) -> Iterator[str]:
    since = table.ARCHITECTURES.get(source.architecture)
    if toolkit and since and toolkit.release < since:
        yield (
            f"{source.architecture} is known from toolkit {shown(since)} on, and this is "
            f"{shown(toolkit.release)}. Install {shown(since)} or later."
        )
    if source.kind == "gguf":
        kinds = {f"type {number}" for number in table.GGUF_TYPES}
        if source.quantized not in kinds:
            yield (
                f"The toolkit loads GGUF files in {' or '.join(table.GGUF_TYPES.values())} only, and "
                f"{source.path.name} is of {source.quantized}. Nearest: the model's fp16 GGUF, or the "
                "Hugging Face folder it was made of."
            )
        if request.lora:
            yield "A LoRA goes with a Hugging Face model only. Nearest: the folder the GGUF was made of."
        if request.calibrate:
            yield (
                "A GGUF file cannot write its own calibration data here. Nearest: --dataset FILE, or the "
                "Hugging Face folder it was made of."
            )
    elif source.quantized:
        gptq = source.quantized.startswith("gptq") and "8 bits" in source.quantized
        if not gptq or (toolkit and toolkit.release < table.GPTQ_SINCE):
            yield (
                f"{source.name} is quantised already ({source.quantized}), and the toolkit takes GPTQ in 8 "
                f"bits only, from {shown(table.GPTQ_SINCE)} on. Nearest: the maker's unquantised weights."
            )
    if request.dataset and request.calibrate:
        yield "--dataset and --calibrate are two ways to the same data: give one of them."
    if request.lora and request.calibrate:
        yield "--calibrate would answer without the LoRA. Nearest: --dataset FILE."
