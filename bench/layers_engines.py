"""How fast layers decode whole on one machine, beside the library's own way over the same weights."""

import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from bench import layers_alone, layers_model, report
from bench.layers_alone import Alone
from bench.report import Cell, Figure, Report, Table, median
from exo.chat import ChatRequest, Finished, Sampling, Text
from exo.engine import LoadedModel
from exo.engines import ENGINES, EngineOptions
from exo.generation.vocabulary import Vocabulary
from exo.shards.engine import LayersEngine
from exo.store.cards import read_card

# Where its weights happen to lie in memory makes a process faster or slower for good: some of each.
_STARTS, _PAIRS, _TOKENS = 3, 4, 17
_THREADS = 1
_WANTED = 0.95


class _Case(msgspec.Struct, frozen=True):
    """An engine, and what it is compared with."""

    name: str
    alone: str


_CASES = (_Case("mlx", "`mlx_lm.generate`"), _Case("tinygrad", "tinygrad's LLM app"))


class _Pair(msgspec.Struct, frozen=True):
    """Tokens a second, one after the other."""

    ours: float
    alone: float

    @property
    def ratio(self) -> float:
        return self.ours / self.alone


def measure() -> Report:
    with tempfile.TemporaryDirectory(prefix="exo-bench-") as home:
        folder = layers_model.write(Path(home))
        file = folder.with_suffix(".gguf")
        layers_model.write_gguf(folder, file)
        paths = {"mlx": folder, "tinygrad": file}
        pairs = {
            case: [
                pair for _ in range(_STARTS) for pair in uvloop.run(_measure(case, folder, paths[case.name]))
            ]
            for case in _CASES
        }
    return Report(
        name="Layers on one machine",
        method=(
            f"{layers_model.ABOUT}; {_THREADS} thread. Ours is the engine of the node, from the request to "
            "the text of each token, with the layers in a process of their own. Beside it, in a process "
            "without exo: `generate_step` of mlx-lm, which is what `mlx_lm.generate` decodes with, without "
            "its detokenizer, as it comes (ours asks for huge pages); and the `Transformer` of "
            "`tinygrad.llm`, compiled with the same compiler as "
            f"ours. Answers of {_TOKENS} tokens, greedy, from the first one to the last; the two take turns, "
            f"{_PAIRS} pairs after one to warm up, the first place changing, and that {_STARTS} times with "
            "new processes. The ratio is the median of those within a pair."
        ),
        tables=(
            Table(
                ("tokens/s", "ours", "best", "the library alone", "best", "ratio", "worst"),
                tuple(_row(case, each) for case, each in pairs.items()),
            ),
        ),
        figures=tuple(
            Figure(f"{case.name} ÷ {case.alone}", median([p.ratio for p in each]), _WANTED, "", "at least")
            for case, each in pairs.items()
        ),
    )


def _row(case: _Case, pairs: list[_Pair]) -> tuple[Cell, ...]:
    ours, alone, ratios = ([getattr(p, name) for p in pairs] for name in ("ours", "alone", "ratio"))
    return (
        f"{case.name}, {case.alone}",
        *(median(ours), max(ours)),
        *(median(alone), max(alone)),
        *(median(ratios), min(ratios)),
    )


async def _measure(case: _Case, folder: Path, path: Path) -> list[_Pair]:
    engine = ENGINES[case.name](EngineOptions(slots=1, context=layers_model.CONTEXT, threads=_THREADS))
    assert isinstance(engine, LayersEngine)
    if reason := engine.unavailable():
        raise RuntimeError(f"there is nothing to measure: {reason}")
    pairs = []
    with Alone(case.name, path, _THREADS) as alone:
        model = await engine.load(read_card(layers_model.NAME, folder), folder)
        try:
            for turn in range(1 + _PAIRS):
                if turn % 2:
                    ours = await _decode(model, folder)
                # The loop stands still meanwhile, and so do the layers: they have nothing to do.
                theirs = alone.decode(_TOKENS)
                if not turn % 2:
                    ours = await _decode(model, folder)
                pairs.append(_Pair(ours, theirs))
        finally:
            await model.unload()
    return pairs[1:]


async def _decode(model: LoadedModel, folder: Path) -> float:
    """Tokens a second. The bias has every one be text, and none the last one."""
    vocabulary = Vocabulary.read(folder)
    sampling = Sampling(temperature=0.0, max_tokens=_TOKENS, logit_bias={layers_model.LETTER_TOKEN: 100.0})
    prompt = b"".join(vocabulary.bytes_of(token) for token in layers_alone.PROMPT).decode()
    times = []
    async for delta in model.respond(ChatRequest(model=layers_model.NAME, prompt=prompt, sampling=sampling)):
        match delta:
            case Text():
                times.append(time.perf_counter())
            case Finished() if len(times) != _TOKENS:
                raise RuntimeError(f"{_TOKENS} tokens were to come, and {len(times)} came")
    return (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    report.main(measure, __doc__)
