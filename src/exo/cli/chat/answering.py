"""One answer: asked for, printed as it comes, and what there is to say of it."""

import time
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from exo.benchmark.results import measured
from exo.chat import ChatRequest, Delta, Finished, FinishReason, Reasoning, Text, Timings, ToolCall, Usage
from exo.cli.chat.route import Origin
from exo.engine import Responder


class Answer:
    """What has come of it so far; a part stays where it is stopped, or fails. It is asked for when this is
    made. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._asked = clock()
        self._pieces: list[float] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, ToolCall] = {}
        self.finished: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Those the model made, joined."""
        return tuple(self._calls.values())

    def take(self, delta: Delta) -> None:
        match delta:
            case Finished():
                self.finished = delta
                return
            case Text(text):
                self._text.append(text)
            case Reasoning(text):
                self._reasoning.append(text)
            case ToolCall(index, id, name, arguments):
                begun = self._calls.get(index, ToolCall(index))
                self._calls[index] = ToolCall(
                    index, begun.id + id, begun.name + name, begun.arguments + arguments
                )
        self._pieces.append(self._clock())

    def figures(self) -> "Figures":
        """Of a whole answer."""
        assert self.finished is not None
        run = measured(self._asked, self._pieces, self.finished) if self._pieces else None
        return Figures(
            usage=self.finished.usage,
            ttft=run.ttft if run else None,
            seconds=(self._pieces or [self._asked])[-1] - self._asked,
            tokens_per_second=run.tokens_per_second if run else None,
            engine=self.finished.timings,
        )


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """By this side's clock, in seconds: `ttft` to the first piece, a thought included, and `seconds` to the
    last. `tokens_per_second` is from the first token to the last. `engine` is what the engine itself says."""

    usage: Usage
    ttft: float | None
    seconds: float
    tokens_per_second: float | None
    engine: Timings


class _Timings(msgspec.Struct, frozen=True, kw_only=True):
    ttft_seconds: float | None
    total_seconds: float
    tokens_per_second: float | None
    engine_prefill_seconds: float | None
    engine_decode_seconds: float | None


class _Whole(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    node: str
    why: str
    answer: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: _Timings


async def print_answer(
    responder: Responder, request: ChatRequest, answer: Answer, show: Callable[[Delta], None]
) -> None:
    """Adds what comes to `answer`, and shows it. Raises what the answer fails with."""
    async with aclosing(responder.respond(request)) as deltas:
        async for delta in deltas:
            answer.take(delta)
            show(delta)


def to_json(model: str, answer: Answer, origin: Origin) -> str:
    """A whole answer as one line. What a terminal would take for control is escaped."""
    assert answer.finished is not None
    figures = answer.figures()
    timings = _Timings(
        ttft_seconds=_rounded(figures.ttft),
        total_seconds=round(figures.seconds, 6),
        tokens_per_second=_rounded(figures.tokens_per_second),
        engine_prefill_seconds=figures.engine.prefill or None,
        engine_decode_seconds=figures.engine.decode or None,
    )
    whole = _Whole(
        model=origin.model or model,
        node=origin.node,
        why=origin.why,
        answer=answer.text,
        reasoning=answer.reasoning,
        tool_calls=answer.calls,
        finish_reason=answer.finished.reason,
        usage=figures.usage,
        timings=timings,
    )
    encoded = msgspec.json.encode(whole).decode()
    # JSON escapes what is below the space only; these stand in its strings, if anywhere.
    return encoded.translate({code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)})


def stats_line(figures: Figures, origin: Origin) -> str:
    """The figures for people; of the reasons of "auto", which way it went."""
    usage = figures.usage
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    thought = f" ({usage.reasoning_tokens} thought)" if usage.reasoning_tokens else ""
    parts = [f"{usage.prompt_tokens}{cached} tokens read, {usage.completion_tokens}{thought} written"]
    if figures.ttft is not None:
        parts.append(f"first after {figures.ttft:.2f} s")
    if figures.tokens_per_second is not None:
        parts.append(f"{figures.tokens_per_second:.1f} tokens/s")
    return "; ".join([*parts, *filter(None, (origin.node, origin.model, origin.why.partition(",")[0]))])


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
