"""What may be wrong with a model file on a board, and whether it is as fast there as it could be.

Decode reads all weights for every token, so memory decides first, then the way the file was quantised, then
the clocks. The figures are those of `rkllama.board.figures`; where the line to "slow" is drawn is our choice.
"""

import re
from collections.abc import Iterator, Sequence

from exo.benchmark import figures
from rkllama.board.evidence import Evidence, Finding, Level, ModelFile, gb, mhz, parts
from rkllama.board.facts import PLATFORMS
from rkllama.vendor.abi import Release

# Below this share of what the board can do, something is wrong; small differences have many reasons.
_SLOW_SHARE = 0.6
# The vendor's decode of Qwen2.5-1.5B is this share of what LPDDR4X-4224 allows.
_USUAL_SHARE = 0.75
# Smaller models are not bound by memory: what surrounds each token takes longer.
_BOUND_BY_MEMORY = 200 * 10**6


def examine(model: ModelFile, evidence: Evidence) -> Iterator[Finding]:
    """What is to be said of a file but its speed."""
    subject, facts, platform = _subject(model), model.facts, evidence.platform
    if model.error is not None:
        yield Finding("broken", subject, model.error)
    elif model.corrupt:
        yield Finding(
            "broken",
            subject,
            "it answers with tokens that its vocabulary does not have: its numbers are corrupt",
            "Use the runtime of the release it was made with, or 1.3.0, which mends an overflow on RK3588.",
        )
    else:
        made = f", {facts.model_dtype} for {facts.target_platform}" if facts.model_dtype else ""
        yield Finding(
            "ok", subject, f"{gb(model.bytes)}{made}{'; it loads and answers' if model.loaded else ''}"
        )
    yield from _made_for(model, platform)
    yield from _made_by(model)
    yield from _quantised(model, platform)
    yield from _room(model, evidence)


def _made_for(model: ModelFile, platform: str | None) -> Iterator[Finding]:
    target = (model.facts.target_platform or "").lower()
    named = [each for each in PLATFORMS if each in model.file.lower()]
    if platform and target and target != platform:
        says = f"it was made for {target}, this board is an {platform}"
        yield Finding("broken", _subject(model), says, f"Get or convert it for {platform}.")
    elif platform and not target and named and platform not in named:
        says = f"by its name it was made for {named[0]}, and this board is an {platform}"
        yield Finding("note", _subject(model), says, f"If it does not load, get it for {platform}.")


def _made_by(model: ModelFile) -> Iterator[Finding]:
    toolkit, runtime = model.facts.toolkit, model.facts.runtime
    if toolkit and runtime and parts(toolkit)[:2] != parts(runtime)[:2]:
        yield Finding(
            "note",
            _subject(model),
            f"it was made by toolkit {toolkit} and runs on runtime {runtime}",
            f"If it misbehaves, convert it with toolkit {runtime}, or install runtime {toolkit}.",
        )
    if runtime and model.release and (release := _release(runtime)) and release != model.release:
        says = f"the library calls itself {runtime}, but is used as {model.release}"
        yield Finding("broken", "Library", says, "Unset RKLLM_RELEASE.")


def _quantised(model: ModelFile, platform: str | None) -> Iterator[Finding]:
    why = _slow_kind(model)
    if why is None:
        return
    figure = _figure(model, platform)
    expected = ""
    if figure:
        expected = (
            f": about {figures.group_quantised(figure):.1f} tokens/s instead of "
            f"{figure.tokens_per_second:.1f} for {figure.model} ({figures.SOURCE})"
        )
    dtype = figure.dtype if figure else "the plain dtype of this board (w8a8, w4a16)"
    remedy = f"Convert it again as {dtype} with optimization_level=0 and hybrid_rate=0."
    yield Finding("slow", _subject(model), f"{why}, which is slow{expected}", remedy)


def _slow_kind(model: ModelFile) -> str | None:
    """What about the way a file was made is slow. The log tells the dtype, and names the rest if anything.

    Names may be wrong: earlier converters did not always do what they wrote there.
    """
    name = model.file.lower().removesuffix(".rkllm")
    said = model.facts.model_dtype
    dtype = re.search(r"w\d+a\d+_g\d+", said.lower() if said else name)
    if dtype:
        return f"it is group-quantised ({dtype[0]})"
    if re.search(r"opt(?:imization_level)?[-_=]?1(?!\d)", name):
        return "by its name it was made with optimization_level=1"
    hybrid = re.search(r"hybrid(?:[-_]?(?:ratio|rate))?[-_=]?(\d+(?:\.\d+)?)?", name)
    if hybrid and (hybrid[1] is None or float(hybrid[1]) > 0):
        return "by its name it is partly group-quantised (hybrid)"
    return None


def _room(model: ModelFile, evidence: Evidence) -> Iterator[Finding]:
    board, figure = evidence.board, _figure(model, evidence.platform)
    need = max(model.bytes, figure.memory_mb * 10**6 if figure else 0)
    level: Level = "slow" if model.loaded else "broken"  # it fits, but only just
    remedy = "Choose a smaller model, or one with a smaller dtype."
    total, free, limit = board.memory_total, board.memory_available, board.cgroup_memory
    if total is not None and need > total:
        yield Finding(
            level, _subject(model), f"it needs {gb(need)} of the board's {gb(total)} memory", remedy
        )
    elif limit is not None and need > limit:
        says = f"it needs {gb(need)} of memory, and this process may use {gb(limit)}"
        yield Finding(level, _subject(model), says, "Raise it: docker --memory, or systemd's MemoryMax.")
    elif free is not None and need > free and not model.loaded:
        says = f"it needs {gb(need)} of memory, and only {gb(free)} are free now"
        yield Finding("note", _subject(model), says, "Unload other models or stop other programs first.")


def speed(model: ModelFile, evidence: Evidence, causes: Sequence[Finding]) -> Iterator[Finding]:
    """How fast it was next to what it could be; `causes` is what else was found to cost speed."""
    if model.speed is None:
        return
    figure = _figure(model, evidence.platform)
    prefill, decode = model.speed.prefill_tokens_per_second, model.speed.decode_tokens_per_second
    clock = " by the clock" if model.speed.by_clock else ""
    if prefill is not None:
        says = f"{prefill:.1f} tokens/s{clock}"
        expected = figure.prefill_tokens_per_second if figure else None
        yield _judged("Prefill", prefill, expected, says + _of_figure(prefill, expected, figure), causes)
    if decode is None:
        yield Finding("note", "Decode", "the model ended its answers too soon to be timed")
    else:
        says = f"{decode:.1f} tokens/s{clock}"
        expected = figure.tokens_per_second if figure else None
        says += _of_figure(decode, expected, figure)
        if bound := _bound(model, evidence):
            allowed, memory = bound
            says += f", {decode / allowed:.0%} of the {allowed:.1f} that {memory} allows"
            expected = expected or _USUAL_SHARE * allowed
        yield _judged("Decode", decode, expected, says, causes)


def _of_figure(rate: float, expected: float | None, figure: figures.Figure | None) -> str:
    if not expected or not figure:
        return ""
    return f", {rate / expected:.0%} of {expected:.1f} for {figure.model} ({figures.SOURCE})"


def _judged(
    subject: str, rate: float, expected: float | None, says: str, causes: Sequence[Finding]
) -> Finding:
    if expected is None:
        return Finding("note", subject, f"{says}; there is no figure to compare it with")
    if rate >= _SLOW_SHARE * expected:
        return Finding("ok", subject, says)
    found = "; ".join(f"{cause.subject}: {cause.says}" for cause in causes)
    return Finding(
        "slow", subject, says, f"Likeliest: {found}." if found else "None of the usual causes was found."
    )


def _bound(model: ModelFile, evidence: Evidence) -> tuple[float, str] | None:
    """Tokens/s that the board's memory allows, and which memory that is."""
    platform = evidence.platform
    if platform is None or model.bytes < _BOUND_BY_MEMORY:
        return None
    board = evidence.working or evidence.board
    clocks = [clock.current for clock in board.clocks if clock.kind == "ddr" and clock.current]
    if clocks and (speed := figures.bandwidth(platform, clocks[0])):
        return figures.bandwidth_bound(model.bytes, speed), f"memory at {mhz(clocks[0])} MHz"
    for memory in figures.MEMORIES:
        if memory.platform == platform:
            return figures.bandwidth_bound(model.bytes, memory.gb_per_second), memory.kind
    return None


def _figure(model: ModelFile, platform: str | None) -> figures.Figure | None:
    """What to expect of the file, were it made the plain way; by its own name or else its folder's."""
    if platform is None:
        return None
    dtype = model.facts.model_dtype
    return figures.nearest(platform, model.file, dtype) or figures.nearest(platform, model.folder, dtype)


def _subject(model: ModelFile) -> str:
    return f"Model {model.file}"


def _release(version: str) -> str | None:
    try:
        return str(Release.of(version))
    except ValueError:
        return None
