"""One model gives one answer, token for token, whatever computes it and wherever its layers are.

Nodes are servers on loopback, and layers are computed in processes of their own, as in a cluster.
"""

import gc
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from exo.cards import ModelCard, Share, Span
from exo.chat import Alternative, ChatRequest, Finished, Message, Reasoning, Sampling, Text, TokenLogprob
from exo.cluster.pipeline import Credentials, open_rest
from exo.engine import LoadedModel
from exo.engines.llamacpp import LlamaCppEngine
from exo.nodes import Cluster
from exo.shards.engine import LayersEngine, Split
from exo.shards.process import RunningShard
from exo.store.catalogue import BUNDLED, read_card
from exo.wire.shards import OpenShard
from tests import checkpoints
from tests.cluster.shard_nodes import ShardNode
from tests.doubles import answer, finished

DEMO = "exo-demo"
CONTEXT = 512
VOCABULARY = 512
ASKED = [
    ("What is 145 + 278?", False),
    ("What is 145 + 278?", True),
    ("What is 905 - 67?", True),
    ("Count from 17 to 31.", False),
    ("Spell the word lantern.", False),
    ("Hello! What can you do?", False),
]
WAYS = [
    ("mlx",),
    ("mlx", "mlx"),
    ("mlx", "mlx", "mlx"),
    ("tinygrad",),
    ("tinygrad", "tinygrad"),
    ("mlx", "tinygrad"),
]
"""The engines of the nodes that have a model's layers, in their order."""
CLOSE = 1e-4


class Said(NamedTuple):
    """A greedy answer. The likelihoods of all tokens that could have followed are of the answer's own tokens
    only, as thoughts come without."""

    reasoning: str
    tokens: tuple[bytes, ...]
    counted: int
    reason: str
    odds: tuple[TokenLogprob, ...]

    @property
    def words(self) -> tuple[object, ...]:
        """Without figures."""
        return self[:-1]


async def said(model: LoadedModel, question: str, thinking: bool, *, most: int = 120, top: int = 0) -> Said:
    request = ChatRequest(
        model="",
        messages=(Message("user", question),),
        sampling=Sampling(temperature=0, max_tokens=most),
        thinking=thinking,
        logprobs=top,
    )
    deltas = await answer(model, request)
    end: Finished = finished(deltas)
    odds = tuple(each for delta in deltas if isinstance(delta, Text) for each in delta.logprobs)
    return Said(
        reasoning="".join(delta.text for delta in deltas if isinstance(delta, Reasoning)),
        tokens=tuple(bytes(each.chosen.bytes) for each in odds),
        counted=end.usage.completion_tokens,
        reason=end.reason,
        odds=odds,
    )


def furthest(some: Said, others: Said) -> float:
    """The largest difference between the logarithms of likelihoods of any token at any place."""
    assert some.odds
    differences: list[float] = []
    for one, other in zip(some.odds, others.odds, strict=True):
        ours, theirs = _by_token(one.top), _by_token(other.top)
        assert len(ours) == VOCABULARY
        differences += [abs(ours[token] - theirs[token]) for token in ours]
    return max(differences)


def _by_token(alternatives: Sequence[Alternative]) -> dict[tuple[str, tuple[int, ...]], float]:
    return {(each.token, each.bytes): each.logprob for each in alternatives}


@asynccontextmanager
async def loaded(folder: Path, engines: Sequence[str]) -> AsyncIterator[LoadedModel]:
    """The model in `folder`, its layers shared evenly among nodes with these engines, the first of which is
    asked."""
    card = read_card(folder.name, folder, CONTEXT)
    cuts = [card.layers * number // len(engines) for number in range(len(engines) + 1)]
    spans = [Span(*pair) for pair in itertools.pairwise(cuts)]
    others = [
        ShardNode(f"{number}", engine=f"exo.engines.{engine}", folder=folder.parent, known=["me"])
        for number, engine in enumerate(engines[1:], 1)
    ]

    async def plan(card: ModelCard, files: Path) -> Split | None:
        if not others:
            return None
        me = msgspec.structs.replace(others[0].state(), id="me")
        cluster = Cluster(me=me, peers=tuple(other.state() for other in others))
        shares = [Share(other.id, span) for other, span in zip(others, spans[1:], strict=True)]

        def open(span: Span) -> OpenShard:
            return OpenShard(model=card.id, span=span, slots=2, context=CONTEXT)

        async def rest() -> Sequence[RunningShard]:
            return await open_rest(shares, cluster, open, Credentials("me"))

        return Split(spans[0], rest)

    first = engines[0]
    engine = LayersEngine(first, f"exo.engines.{first}", slots=2, context=CONTEXT, plan=plan)
    try:
        for other in others:
            await other.start()
        model = await engine.load(card, folder)
        assert [len(other.held) for other in others] == [1] * len(others)
        try:
            yield model
        finally:
            await model.unload()
    finally:
        for other in others:
            await other.stop()
        gc.collect()  # asyncio's transports of processes are unmade by the collector


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """tinygrad compiles once for all these tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CACHEDB", str(tmp_path_factory.mktemp("compiled") / "tinygrad.db"))
        yield


class Kept:
    """Answers of the bundled model that several tests are held to, by what gives them."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, ...], list[Said]] = {}

    async def of(self, *engines: str) -> list[Said]:
        if engines not in self._said:
            async with loaded(BUNDLED / DEMO, engines) as model:
                self._said[engines] = [await said(model, *asked, top=VOCABULARY) for asked in ASKED]
        return self._said[engines]

    async def of_llamacpp(self) -> list[Said]:
        if () not in self._said:
            gguf = BUNDLED / DEMO / "model.gguf"
            model = await LlamaCppEngine(slots=1, threads=1).load(read_card(DEMO, gguf), gguf)
            try:
                self._said[()] = [await said(model, *asked) for asked in ASKED]
            finally:
                await model.unload()
        return self._said[()]


@pytest.fixture(scope="module")
def kept() -> Kept:
    return Kept()


async def test_the_answers_are_worth_comparing(kept: Kept) -> None:
    answers = await kept.of_llamacpp()
    by_question = dict(zip(ASKED, answers, strict=True))
    assert b"423" in b"".join(by_question[ASKED[0]].tokens)
    assert "=" in by_question[ASKED[1]].reasoning
    assert b"".join(by_question[ASKED[3]].tokens).count(b" ") >= 14
    assert {each.reason for each in answers} == {"stop"}


@pytest.mark.parametrize("engines", WAYS, ids=" + ".join)
async def test_the_bundled_models_answers_are_those_of_the_default_engine(
    kept: Kept, engines: Sequence[str]
) -> None:
    told, unsplit = await kept.of(*engines), await kept.of(engines[0])
    for here, default, alone in zip(told, await kept.of_llamacpp(), unsplit, strict=True):
        assert here.words == default.words
        assert furthest(here, alone) < CLOSE


async def test_engines_round_differently_and_no_more(kept: Kept) -> None:
    for one, other in zip(await kept.of("mlx"), await kept.of("tinygrad"), strict=True):
        assert 0 < furthest(one, other) < 10 * CLOSE


async def test_a_model_of_100_million_weights_answers_alike_on_two_nodes(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "large"
    checkpoints.write(
        folder, layers=12, width=768, intermediate=3072, heads=12, kv_heads=12, dtype="bfloat16"
    )
    card = read_card("large", folder)
    assert 100e6 < card.parameters < 130e6
    answers: list[Said] = []
    for engines in (["mlx"], ["mlx", "mlx"], ["tinygrad", "mlx"]):
        async with loaded(folder, engines) as model:
            answers.append(await said(model, *ASKED[0], most=12, top=VOCABULARY))
    alone, *others = answers
    assert alone.counted == 12
    for other in others:
        assert other.words == alone.words
        assert furthest(other, alone) < CLOSE
