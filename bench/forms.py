"""What an answer of a fixed form costs of the decode speed, and whether it keeps to its form."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
import uvloop
from jsonschema import Draft202012Validator, ValidationError

from bench import report
from bench.npu_board import MODEL, RELEASE, Board
from bench.report import Cell, Figure, Report, Table, median
from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Finished, JsonSchema, Message, Sampling, Text
from exo.engine import Engine, LoadedModel
from exo.engines import ENGINES, EngineOptions
from exo.store.catalogue import BUNDLED, Catalogue
from rkllama.engine import RkllmEngine
from rkllama.models.catalogue import Models
from tests.generation.random_schemas import begins_json, drawn

# Its answer is longer than the tokens asked for, by itself.
_QUESTION = "Count from 1 to 100."
_TOKENS = 128
_PACE = "rk3588:Qwen2-0.5B"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Of at least four tokens each, as a quote, a letter, a quote and a comma are.
_SCHEMA: JsonSchema = {"type": "array", "items": {"enum": _WORDS}, "minItems": 60, "maxItems": 60}
_WANTED_RATIO = 0.85
_WARM_UP = 2

_SCHEMAS = 1000
_MOST = 1200
_QUESTIONS = ("What is 14 + 27?", "Count from 1 to 40.", "Hello!", 'Say "}".')
_WANTED_CUT = 0.05


class _Case(msgspec.Struct, frozen=True):
    """An engine, what it is given to load, and how often it is asked both ways."""

    name: str
    engine: Engine
    card: ModelCard
    files: Path
    rounds: int


class _Answer(msgspec.Struct, frozen=True):
    """Tokens a second behind the first one, and milliseconds until that."""

    per_second: float
    first: float


class _Speeds(msgspec.Struct):
    """An answer of each way a round."""

    free: list[_Answer] = []
    held: list[_Answer] = []

    @property
    def ratio(self) -> float:
        held, free = (median([each.per_second for each in way]) for way in (self.held, self.free))
        return held / free


class _Kept(msgspec.Struct):
    """How many answers of random schemas ended, how many were cut, and how many of all were wrong."""

    ended: int = 0
    cut: int = 0
    wrong: int = 0


def measure() -> Report:
    with Board() as board:
        speeds = {case.name: uvloop.run(_measure(case)) for case in _cases(board)}
    kept = uvloop.run(_keep())
    return Report(
        name="Answers of a fixed form",
        method=(
            "`exo-demo`, one thread, from the request to the deltas of each engine's `respond`, no HTTP. "
            f"Both ways have the same prompt, whose free answer is longer, greedy sampling, and exactly "
            f"{_TOKENS} tokens drawn, after which both are cut; they take turns, the first place changing. "
            "`held` keeps to a JSON schema: an array of 60 words, each one of ten, so that most tokens are a "
            "choice and the model, left to itself, would write none of them. Tokens a second are from the "
            "first one to the end by the client's clock; compiling the schema is before the first one. "
            "`held ÷ free` is the ratio of the medians. The NPU's is the stand-in runtime at the vendor's "
            "pace: free is the runtime's own generation, held is drawn from its logits. Then "
            f"{_SCHEMAS:,} random schemas on llama.cpp at temperature 1, each with a seed of its own: an "
            f"answer that ended is parsed and validated; one cut after {_MOST:,} tokens has to begin JSON."
        ),
        tables=(
            Table(
                ("tokens/s", "free", "best", "held", "best", "held ÷ free", "ms to first, free", "held"),
                tuple(_row(name, each) for name, each in speeds.items()),
            ),
            Table(
                ("random schemas", "ended by themselves", "cut", "invalid"),
                ((f"{_SCHEMAS:,}", kept.ended, kept.cut, kept.wrong),),
            ),
        ),
        figures=(
            *(
                Figure(f"decode held to a schema ÷ free, {name}", each.ratio, _WANTED_RATIO, "", "at least")
                for name, each in speeds.items()
            ),
            Figure(f"invalid JSON in {_SCHEMAS:,}", kept.wrong, 0, "", "at most"),
            Figure("cut, of random schemas", kept.cut / _SCHEMAS, _WANTED_CUT, "", "at most"),
        ),
        notes=(
            "The model takes a fraction of a millisecond for a token, and its vocabulary has some 500: a "
            "larger model makes the share of the form smaller, a larger vocabulary the form's work longer. "
            f"The NPU is the stand-in runtime at the vendor's pace for {_PACE}: on a real one, a run of one "
            "token may cost more than the token, which could not be tried.",
        ),
    )


def _cases(board: Board) -> Iterator[_Case]:
    options = EngineOptions(slots=1, threads=1)
    yield _Case("llama.cpp", ENGINES["llamacpp"](options), *Catalogue(BUNDLED)["exo-demo"], 40)
    layers = Catalogue(BUNDLED, formats=("safetensors",))["exo-demo"]
    yield _Case("mlx", ENGINES["mlx"](options), *layers, 20)
    yield _Case("tinygrad", ENGINES["tinygrad"](options), *layers, 10)
    models = Models(board.model_file(RELEASE).parents[1])
    environment = {**os.environ, "STANDIN_PACE": _PACE}
    npu = RkllmEngine(models, board.library(RELEASE), environment=environment)
    yield _Case("NPU", npu, *models[MODEL], 5)


async def _measure(case: _Case) -> _Speeds:
    if reason := case.engine.unavailable():
        raise RuntimeError(f"{case.name} cannot be measured: {reason}")
    speeds = _Speeds()
    model = await case.engine.load(case.card, case.files)
    try:
        for turn in range(_WARM_UP + case.rounds):
            speeds_now = speeds if turn >= _WARM_UP else _Speeds()
            ways = [(None, speeds_now.free), (_SCHEMA, speeds_now.held)]
            for schema, into in ways if turn % 2 else reversed(ways):
                into.append(await _decode(model, case.card.id, schema))
    finally:
        await model.unload()
    return speeds


async def _decode(model: LoadedModel, name: str, schema: JsonSchema | None) -> _Answer:
    request = ChatRequest(
        model=name,
        messages=(Message("user", _QUESTION),),
        sampling=Sampling(temperature=0.0, max_tokens=_TOKENS),
        json_schema=schema,
        thinking=False,
    )
    began = time.perf_counter()
    first, text = 0.0, ""
    async with aclosing(model.respond(request)) as deltas:
        async for delta in deltas:
            if isinstance(delta, Text):
                first, text = first or time.perf_counter(), text + delta.text
    seconds = time.perf_counter() - first
    assert isinstance(delta, Finished), "an answer ends with Finished"
    if delta.reason != "length" or delta.usage.completion_tokens != _TOKENS:
        raise RuntimeError(f"{name}: {_TOKENS} tokens were to come, and it ended as {delta}")
    if schema is not None and not begins_json(text):
        raise RuntimeError(f"{name} was not held to JSON: {text!r}")
    return _Answer((_TOKENS - 1) / seconds, (first - began) * 1e3)


async def _keep() -> _Kept:
    """Answers of llama.cpp for schemas at random."""
    kept = _Kept()
    card, file = Catalogue(BUNDLED)["exo-demo"]
    model = await ENGINES["llamacpp"](EngineOptions(slots=1)).load(card, file)
    try:
        for seed, schema in enumerate(drawn(_SCHEMAS)):
            request = ChatRequest(
                model=card.id,
                messages=(Message("user", _QUESTIONS[seed % len(_QUESTIONS)]),),
                sampling=Sampling(temperature=1.0, seed=seed, max_tokens=_MOST),
                json_schema=schema,
                thinking=seed % 3 == 0,
            )
            async with aclosing(model.respond(request)) as deltas:
                _judge(kept, [delta async for delta in deltas], schema)
    finally:
        await model.unload()
    return kept


def _judge(kept: _Kept, deltas: Sequence[Delta], schema: JsonSchema) -> None:
    text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
    end = deltas[-1]
    assert isinstance(end, Finished), "an answer ends with Finished"
    if end.reason == "length":
        kept.cut += 1
        wrong = not begins_json(text)
    else:
        kept.ended += 1
        wrong = not _is_valid(text, schema)
    if wrong:
        kept.wrong += 1
        print(f"{json.dumps(schema)} gave {text!r}", file=sys.stderr)


def _is_valid(text: str, schema: JsonSchema) -> bool:
    try:
        Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, ValidationError):
        return False
    return True


def _row(name: str, speeds: _Speeds) -> tuple[Cell, ...]:
    free, held = ([answer.per_second for answer in answers] for answers in (speeds.free, speeds.held))
    first = (median([answer.first for answer in answers]) for answers in (speeds.free, speeds.held))
    return (name, median(free), max(free), median(held), max(held), speeds.ratio, *first)


if __name__ == "__main__":
    report.main(measure, __doc__)
