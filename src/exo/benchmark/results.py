"""How fast a model answers: figures from marks of time, what they compare with, and how they are shown. Pure.

The five prompts and the averages of the first exo-rkllama are of its own benchmark.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from exo.benchmark.figures import FIGURES, MEMORIES, bandwidth_bound
from exo.cards import ModelCard
from exo.chat import Finished
from exo.errors import EngineFailed
from exo.nodes import Cluster

PROMPTS = (
    "What is 145 + 278?",
    "What is Python in one sentence?",
    "Write a Python function to check if a number is prime.",
    "Is 17 a prime number? Explain.",
    "Write a haiku about AI.",
)
WARM_UP = "Count from one to five."
"""None of `PROMPTS`, so that a KV cache holds none of them beforehand."""


_KEYS = {
    "ttft": "ttft_seconds",
    "itl_p50": "itl_p50_seconds",
    "itl_p95": "itl_p95_seconds",
    "prefill": "prefill_tokens_per_second",
    "decode": "decode_tokens_per_second",
}


class Run(msgspec.Struct, frozen=True, kw_only=True, rename=_KEYS):
    """The figures of one answer, or the medians of several; None is what could not be told.

    By the client's clock, in seconds: `ttft` from the request to the first piece of the answer, a thought
    included; `itl_p50` and `itl_p95` between pieces, which are a token each with most servers.
    `tokens_per_second` is from the first token to the last. `counted` are pieces in place of tokens, as the
    server sent no usage. `prefill` and `decode` are tokens/s by the server's own clock. `joules` are what the
    server's machine used from the request to the last piece.
    """

    ttft: float
    tokens: float
    counted: bool
    itl_p50: float | None = None
    itl_p95: float | None = None
    tokens_per_second: float | None = None
    prefill: float | None = None
    decode: float | None = None
    joules: float | None = None


class PromptResult(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer failed there is an `error`, and `median` is None."""

    prompt: str
    runs: tuple[Run, ...] = ()
    median: Run | None = None
    error: str | None = None


class Reference(msgspec.Struct, frozen=True):
    """Tokens/s that are known of the same model, and whose figure that is."""

    what: str
    tokens_per_second: float


class ModelResult(msgspec.Struct, frozen=True, kw_only=True):
    """`median` is of the runs of all prompts that have not failed. `error` is of the warm-up."""

    model: str
    prompts: tuple[PromptResult, ...]
    median: Run | None = None
    references: tuple[Reference, ...] = ()
    error: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """It is not `complete` where it was stopped before all `runs` of each prompt."""

    url: str
    complete: bool
    runs: int
    max_tokens: int
    models: tuple[ModelResult, ...]
    energy: str = ""
    """What joules are counted by; "" for nothing."""

    @property
    def failed(self) -> bool:
        return any(model.error or any(each.error for each in model.prompts) for model in self.models)


def measured(asked: float, pieces: Sequence[float], finished: Finished) -> Run:
    """Figures of an answer that was asked for at `asked` and whose pieces came at `pieces`, in seconds of one
    clock. Raises `EngineFailed` for an empty one, which says nothing of speed."""
    if not pieces:
        raise EngineFailed("the answer is empty: there is nothing to measure")
    usage, timings = finished.usage, finished.timings
    tokens = usage.completion_tokens or len(pieces)
    counted = not usage.completion_tokens
    gaps = [later - earlier for earlier, later in itertools.pairwise(pieces)]
    span = pieces[-1] - pieces[0]
    read = usage.prompt_tokens - usage.cached_tokens
    return Run(
        ttft=pieces[0] - asked,
        tokens=tokens,
        counted=counted,
        itl_p50=percentile(gaps, 0.5),
        itl_p95=percentile(gaps, 0.95),
        tokens_per_second=(tokens - 1) / span if span > 0 and tokens > 1 else None,
        prefill=read / timings.prefill if read > 0 and timings.prefill > 0 else None,
        decode=tokens / timings.decode if not counted and timings.decode > 0 else None,
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that so many of them do not exceed (nearest rank); None of no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def median(runs: Sequence[Run]) -> Run | None:
    """Each figure's own median over the runs that have it."""
    if not runs:
        return None
    import statistics  # with fractions and decimals, which no other command needs

    def of(name: str) -> float | None:
        known = [value for run in runs if (value := getattr(run, name)) is not None]
        return statistics.median(known) if known else None

    return Run(
        ttft=statistics.median(run.ttft for run in runs),
        tokens=statistics.median(run.tokens for run in runs),
        counted=any(run.counted for run in runs),
        **{name: of(name) for name in _OPTIONAL},
    )


_OPTIONAL = ("itl_p50", "itl_p95", "tokens_per_second", "prefill", "decode", "joules")


def model_result(
    model: str,
    runs: Mapping[str, Sequence[Run]],
    errors: Mapping[str, str],
    references: Sequence[Reference] = (),
    error: str | None = None,
) -> ModelResult:
    """`runs` and `errors` are by prompt."""
    prompts = tuple(
        PromptResult(
            prompt=prompt,
            runs=tuple(runs.get(prompt, ())),
            median=None if prompt in errors else median(runs.get(prompt, ())),
            error=errors.get(prompt),
        )
        for prompt in PROMPTS
    )
    whole = [run for each in prompts if each.error is None for run in each.runs]
    return ModelResult(
        model=model, prompts=prompts, median=median(whole), references=tuple(references), error=error
    )


# What is known

FIRST_EXO = {"qwen2.51.5binstruct": 7.76, "deepseekr11.5b": 7.91, "deepseekr1distillqwen1.5b": 7.91}
"""Average tokens/s of the first exo-rkllama on an RK3588, by `_squashed` name."""


def references(model: str, cluster: Cluster | None) -> tuple[Reference, ...]:
    """What is known of this model on the machine that answers; nothing where either is not known.

    The machine is known where all nodes that have the model's whole files have the same chip. The vendor's
    figure is for its own format only, at the same quantization.
    """
    held = _held(model, cluster)
    chips = {chip for chip, _ in held}
    if len(chips) != 1:
        return ()
    chip, card = held[0]
    found = []
    name = _squashed(model.rpartition("/")[2])
    if chip == "RK3588":
        found += [
            Reference("the first exo-rkllama, on the NPU of an RK3588", speed)
            for known, speed in FIRST_EXO.items()
            if name.startswith(known)
        ]
    if card.format == "rkllm":
        found += [
            Reference(
                f"the vendor's benchmark of {each.model} {each.dtype} on the {chip}", each.tokens_per_second
            )
            for each in FIGURES
            if each.platform == chip.lower()
            and card.quantization.lower() in ("", each.dtype)
            and name.startswith(_squashed(each.model))
        ]
    # Of a mixture of experts, a token reads a part that the card does not tell.
    if "moe" not in card.architecture.lower():
        found += [
            Reference(
                f"the most that {each.kind} allows on the {chip}, if a token reads the whole file",
                bandwidth_bound(card.bytes, each.gb_per_second),
            )
            for each in MEMORIES
            if each.platform == chip.lower()
        ]
    return tuple(found)


def _held(model: str, cluster: Cluster | None) -> list[tuple[str, ModelCard]]:
    """Chip and card of each node that has it. A card without bytes is of another server's model, on a machine
    that is not known."""
    nodes = (cluster.me, *cluster.peers) if cluster else ()
    return [
        (node.device.chip, card)
        for node in nodes
        for card in node.cards
        if card.id == model and card.bytes and card.whole and not card.split
    ]


def _squashed(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


# How it is shown


def table(result: ModelResult) -> list[tuple[str, ...]]:
    """Head and rows, the last one of all prompts. The server's own figures have columns where it has any."""
    rows = [(each.prompt, each.median, each.error) for each in result.prompts]
    rows.append(("median of all", result.median, None))
    head: tuple[str, ...] = ("PROMPT", "TTFT", "ITL P50", "ITL P95", "TOKENS", "TOKENS/S")
    if any(run and (run.prefill or run.decode) for _, run, _ in rows):
        head = (*head, "PREFILL/S", "DECODE/S")
    if any(run and run.joules is not None for _, run, _ in rows):
        head = (*head, "J/TOKEN")
    return [head] + [(prompt, *_cells(run, head, "failed" if error else "-")) for prompt, run, error in rows]


def _cells(run: Run | None, head: Sequence[str], missing: str) -> tuple[str, ...]:
    """Those behind the prompt's."""
    if run is None:
        return (missing, *[""] * (len(head) - 2))
    cells: tuple[str, ...] = (
        _seconds(run.ttft),
        _seconds(run.itl_p50),
        _seconds(run.itl_p95),
        f"{run.tokens:g}" + ("*" if run.counted else ""),
        _speed(run.tokens_per_second) + ("*" if run.counted else ""),
    )
    if "DECODE/S" in head:
        cells = (*cells, _speed(run.prefill), _speed(run.decode))
    if "J/TOKEN" in head:
        cells = (*cells, "-" if run.joules is None else f"{run.joules / run.tokens:.2f}")
    return cells


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def to_json(report: Report) -> bytes:
    """The report, indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def drawn(report: Report) -> str:
    """Tokens/s by prompt as an SVG document, the models side by side."""
    from exo.benchmark.barplot import barplot

    title = f"Tokens/s, medians of {report.runs} runs" + ("" if report.complete else " (incomplete)")
    series = {
        result.model: [each.median.tokens_per_second if each.median else None for each in result.prompts]
        for result in report.models
    }
    return barplot(title, "tokens/s", PROMPTS, series)
