"""How fast a model is on this board: loads it, lets it answer a few times, and takes the median.

Prompt and answer are about as long as in the vendor's benchmark. The prompts are raw text, so how many tokens
they have depends on the model; the runtime counts them. Each begins differently, as the runtime keeps what
two prompts have in common. Before release 1.2.1 it counts and times nothing, and the clock has to do.
"""

import asyncio
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from exo.benchmark.figures import NEW_TOKENS
from exo.chat import Sampling
from exo.errors import ExoError, ModelNotFound
from rkllama.board.evidence import ModelFile, Speed
from rkllama.board.facts import Board
from rkllama.process.supervisor import ModelProcess
from rkllama.vendor.asks import Ask, Finished, Options, Prompt, Token, Waiting

RUNS = 3
# Seconds that a run which takes too long gets to end, before its process is ended.
_ABORT_SECONDS = 10.0
# Room for the prompt in any tokenizer, and the answer; no file has less.
_CONTEXT = 512
# By the time of this token of the last run the governors have seen what there is to do.
_LOOK_AT = 8

_SENTENCES = (
    "The harbour wakes before the town does, when the first boats come in from the night.",
    "Gulls follow them over the grey water and settle on the sheds along the quay.",
    "A man with a long hook pulls the baskets up, and somebody counts them aloud.",
    "By six the ice is in, the lorries have gone, and the stones are washed clean.",
    "In the afternoon the wind turns, and the flags on the old customs house turn with it.",
    "Later the lamps are lit one after the other, all the way out to the lighthouse.",
)
# No model ends its answer in the middle of this, whatever its chat template is.
_COUNT = "\nCount from 1 to 60.\n1, 2, 3, 4, 5,"
# What the rows of the output layer that no token uses are called.
_PADDING = re.compile(rb"\[PAD\d+\]")


def prompt(number: int) -> str:
    """About 128 tokens to go on counting from; each number begins with another sentence."""
    start = number % len(_SENTENCES)
    return " ".join(_SENTENCES[start:] + _SENTENCES[:start]) + _COUNT


def described(path: Path) -> ModelFile:
    """A file as it is on the disk. ModelNotFound if it cannot be looked at."""
    try:
        return ModelFile(file=path.name, folder=path.absolute().parent.name, bytes=path.stat().st_size)
    except OSError as error:
        raise ModelNotFound(f"The model file {path} cannot be read: {error.strerror}.") from error


async def measure(
    path: Path,
    library: Path,
    look: Callable[[], Board],
    *,
    release: str | None = None,
    seconds: float = 300.0,
) -> tuple[ModelFile, Board | None]:
    """The file with what came of loading and running it, and what `look` saw of the board meanwhile.

    Whatever fails is in `ModelFile.error`. Loading, and each answer, get so many `seconds`. `release` is a
    version like "1.2.3", for a library that does not show its own.
    """
    file, doing = described(path), "load"
    options = Options(model=path, max_context_len=_CONTEXT, sampling=Sampling(top_k=1))
    try:
        async with asyncio.timeout(seconds):
            process = await ModelProcess.start(
                options, library, release=release, abort_seconds=min(seconds, _ABORT_SECONDS)
            )
        try:
            file = msgspec.structs.replace(file, loaded=True, facts=process.facts, release=process.release)
            doing = "answer"
            timed = [await _timed(process, prompt(number), seconds) for number in range(RUNS - 1)]
            last = await _timed(process, prompt(RUNS - 1), seconds, look)
        finally:
            await process.stop()
    except ExoError as error:
        return msgspec.structs.replace(file, error=error.message), None
    except TimeoutError:
        return msgspec.structs.replace(file, error=f"it did not {doing} within {seconds:g} s"), None
    runs = [*timed, last]
    corrupt = any(run.corrupt for run in runs)
    return msgspec.structs.replace(file, speed=_median(runs), corrupt=corrupt), last.seen


@dataclass
class _Timed:
    """One run by the clock, and what the runtime said of it."""

    asked: float
    first: float = 0.0  # when the first token came, and the last
    last: float = 0.0
    tokens: int = 0
    finished: Finished = field(default_factory=Finished)
    corrupt: bool = False
    seen: Board | None = None

    def prefill(self) -> tuple[int, float] | None:
        """Tokens, and tokens/s."""
        perf, held = self.finished.perf, self.finished.context_tokens
        if perf and perf.prefill_tokens and perf.prefill_seconds > 0:
            return perf.prefill_tokens, perf.prefill_tokens / perf.prefill_seconds
        if held and held > self.tokens > 0 and self.first > self.asked:
            return held - self.tokens, (held - self.tokens) / (self.first - self.asked)
        return None

    def decode(self) -> float | None:
        """Tokens/s."""
        perf = self.finished.perf
        if perf and perf.generate_tokens and perf.generate_seconds > 0:
            return perf.generate_tokens / perf.generate_seconds
        return (self.tokens - 1) / (self.last - self.first) if self.last > self.first else None


async def _timed(
    process: ModelProcess, text: str, seconds: float, look: Callable[[], Board] | None = None
) -> _Timed:
    ask = Ask(inputs=(Prompt(text),), max_tokens=NEW_TOKENS)
    run, answer = _Timed(time.monotonic()), b""
    async with asyncio.timeout(seconds), aclosing(process.run(ask)) as events:
        async for event in events:
            if isinstance(event, Finished):
                run.finished = event
            elif isinstance(event, Token | Waiting):
                run.last = time.monotonic()
                run.first = run.first or run.last
                run.tokens += 1
                answer += event.text if isinstance(event, Token) else b""
                if run.tokens == _LOOK_AT and look is not None:
                    run.seen = look()
    run.corrupt = _PADDING.search(answer) is not None
    return run


def _median(runs: Sequence[_Timed]) -> Speed:
    prefills = [prefill for run in runs if (prefill := run.prefill())]
    decodes = [decode for run in runs if (decode := run.decode())]
    return Speed(
        prefill_tokens=statistics.median_low(count for count, _ in prefills) if prefills else None,
        prefill_tokens_per_second=statistics.median(rate for _, rate in prefills) if prefills else None,
        decode_tokens_per_second=statistics.median(decodes) if decodes else None,
        by_clock=any(run.finished.perf is None for run in runs),
    )
