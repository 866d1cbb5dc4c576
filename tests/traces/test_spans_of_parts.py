"""Where the program says what it does: the residency, an answer's phases, and clients of other servers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exo.cards import ModelCard, Share, Span
from exo.chat import ChatRequest, Delta, EmbedRequest, Finished, Message, Text, Timings, Trace, Usage
from exo.engine import LoadedModel, SpellRequest
from exo.engines.scripted import Fail, Hang, Script, ScriptedModel, Wait
from exo.errors import EngineFailed, ExoError, NotReady
from exo.http.remote import Remote
from exo.residency.residency import Limits, Residency
from exo.traces import OFF
from exo.traces.phases import phases
from tests.doubles import SilentObserver, answer, card
from tests.http.test_original import Npu
from tests.traces.kept import ABOVE, Kept

ASK = ChatRequest(model="m", prompt="hi", trace=ABOVE)
END = Finished("stop", Usage(7, 2, cached_tokens=3, reasoning_tokens=1), Timings(0.25, 0.5))


# Phases


async def deltas(*steps: Delta | ExoError) -> AsyncGenerator[Delta, None]:
    for step in steps:
        await asyncio.sleep(0)
        if isinstance(step, ExoError):
            raise step
        yield step


async def test_an_answer_is_prefill_and_decode_with_the_engines_own_figures() -> None:
    kept = Kept()
    assert [each async for each in phases(kept, ASK, deltas(Text("a"), END))] == [Text("a"), END]
    assert kept.names == ["prefill", "decode"]
    prefill, decode = kept.spans
    assert (prefill.above, decode.above) == (ABOVE, ABOVE)
    assert prefill.ended == decode.began
    assert prefill.attributes == {
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "exo.prefill.seconds": 0.25,
    }
    assert decode.attributes == {
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "exo.decode.seconds": 0.5,
    }


@pytest.mark.parametrize(
    ("steps", "errors"),
    [
        ((EngineFailed("a prompt"),), {"prefill": "engine_failed"}),
        ((Text("a"), EngineFailed("a prompt")), {"prefill": "", "decode": "engine_failed"}),
        ((), {"prefill": ""}),
    ],
)
async def test_where_an_answer_fails_is_seen(
    steps: tuple[Delta | ExoError, ...], errors: dict[str, str]
) -> None:
    kept = Kept()
    try:
        async for _ in phases(kept, ASK, deltas(*steps)):
            pass
    except EngineFailed:
        pass
    assert {span.name: span.error for span in kept.spans} == errors


async def test_an_answer_that_is_closed_is_cancelled_unless_its_end_had_come() -> None:
    for last, error in ((Text("a"), "cancelled"), (END, "")):
        kept = Kept()
        async with aclosing(phases(kept, ASK, deltas(last, Text("never")))) as answer:
            assert await anext(answer) == last
        assert [span.error for span in kept.spans] == ["", error]


async def test_where_nothing_is_recorded_the_deltas_are_the_engines_own() -> None:
    own = deltas(END)
    assert phases(OFF, ASK, own) is own
    await own.aclose()


# The residency


class Stage:
    """A residency over a script, whose models are split."""

    formats = frozenset({"script"})

    def __init__(self, *steps: Text | Wait | Hang | Fail) -> None:
        self.kept = Kept()
        self.may_load = asyncio.Event()
        self.broken: Exception | None = None
        self._script = Script(steps=steps)
        shares = (Share("a", Span(0, 3)), Share("b", Span(3, 6)))
        split = msgspec.structs.replace(card("m"), split=shares)
        self.residency = Residency(
            [self], {"m": (split, Path("m"))}, Limits(8), SilentObserver(), traces=self.kept
        )

    def unavailable(self) -> str | None:
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        await self.may_load.wait()
        if self.broken:
            raise self.broken
        return ScriptedModel(self._script)


async def test_the_opening_of_a_models_shards_is_its_loading() -> None:
    stage = Stage(Text("hi"))
    asked = asyncio.create_task(answer(stage.residency, ASK))
    await asyncio.sleep(0)
    stage.may_load.set()
    await asked
    await answer(stage.residency, ASK)
    assert stage.kept.names == ["queue", "load", "prefill", "decode", "queue", "prefill", "decode"]
    load = stage.kept.one("load")
    assert load.above == next(span.trace for span in stage.kept.spans if span.name == "queue")
    assert load.attributes == {"gen_ai.request.model": "m", "exo.format": "script", "exo.shards": 2}


async def test_one_who_comes_late_has_of_a_loading_what_he_waited_for() -> None:
    stage = Stage(Text("hi"))
    first = asyncio.create_task(answer(stage.residency, ASK))
    for _ in range(9):
        await asyncio.sleep(0)
    second = asyncio.create_task(answer(stage.residency, ASK))
    await asyncio.sleep(0)
    stage.may_load.set()
    await asyncio.gather(first, second)
    one, two = [span for span in stage.kept.spans if span.name == "load"]
    assert one.ended == two.ended
    waits = {span.trace: span for span in stage.kept.spans if span.name == "queue"}
    assert waits[one.above].began <= one.began
    assert waits[two.above].began == two.began > one.began


async def test_a_loading_that_fails_fails_the_wait_for_it() -> None:
    stage = Stage()
    stage.broken = ValueError("no such layers")
    stage.may_load.set()
    with pytest.raises(EngineFailed):
        await answer(stage.residency, ASK)
    assert [(span.name, span.error) for span in stage.kept.spans] == [("queue", "engine_failed")]


async def test_one_who_leaves_the_queue_is_cancelled_and_leaves_no_slot_taken() -> None:
    stage = Stage(Text("hi"))
    asked = asyncio.create_task(answer(stage.residency, ASK))
    for _ in range(9):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert [(span.name, span.error) for span in stage.kept.spans] == [("queue", "cancelled")]
    stage.may_load.set()
    await answer(stage.residency, ASK)
    assert stage.residency.residents["m"].running == 0


async def test_work_that_is_part_of_no_trace_is_in_none() -> None:
    stage = Stage(Text("hi"))
    stage.may_load.set()
    await stage.residency.load("m")
    await answer(stage.residency, msgspec.structs.replace(ASK, trace=Trace()))
    assert stage.kept.spans == []


# Clients of other servers


class Server:
    """Answers everything with `body`, and keeps what it was sent."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.headers: list[tuple[str, str]] = []
        app = web.Application()
        app.router.add_route("POST", "/{path:.*}", self._take)
        self.server, self._body, self._status = TestServer(app), body, status

    async def _take(self, http: web.Request) -> web.Response:
        self.headers = [
            (http.headers.get("traceparent", ""), http.headers.get("tracestate", "")),
        ]
        return web.Response(body=self._body, status=self._status, content_type="application/json")


EMBEDDED = b'{"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1, "total_tokens": 1}}'


async def test_the_span_of_a_client_is_what_the_other_servers_work_is_part_of() -> None:
    there, kept = Server(EMBEDDED), Kept()
    async with there.server:
        remote = Remote(str(there.server.make_url("")), traces=kept)
        await remote.embed(EmbedRequest(model="m", texts=("hi",), trace=ABOVE))
        await remote.close()
        span = kept.one("embeddings m")
        assert there.headers == [(span.trace.parent, "vendor=opaque")]
        assert (span.kind, span.above, span.error) == ("client", ABOVE, "")
        assert span.attributes["server.port"] == there.server.port


async def test_a_client_that_records_nothing_passes_on_what_it_was_given() -> None:
    there = Server(EMBEDDED)
    async with there.server:
        remote = Remote(str(there.server.make_url("")))
        await remote.embed(EmbedRequest(model="m", texts=("hi",), trace=ABOVE))
        assert there.headers == [(ABOVE.parent, ABOVE.state)]
        await remote.embed(EmbedRequest(model="m", texts=("hi",)))
        assert there.headers == [("", "")]
        with pytest.raises(ExoError):
            await remote.spell(SpellRequest(model="m", tokens=(1,), trace=ABOVE))
        assert there.headers == [(ABOVE.parent, ABOVE.state)]
        await remote.close()


async def test_a_server_that_refuses_or_is_not_there_fails_the_clients_span() -> None:
    kept = Kept()
    remote = Remote("http://127.0.0.1:1", traces=kept)
    with pytest.raises(NotReady):
        await answer(remote, ASK)
    await remote.close()
    assert [(span.name, span.error) for span in kept.spans] == [("text_completion m", "not_ready")]
    assert kept.spans[0].attributes["server.port"] == 1


async def test_the_first_rkllama_is_a_server_too() -> None:
    npu, kept = Npu("m"), Kept()
    request = ChatRequest(model="m", messages=(Message("user", "hi"),), trace=ABOVE)
    async with npu(traces=kept) as original:
        await answer(original, request)
    [span] = kept.spans
    assert (span.name, span.kind, span.error) == ("chat m", "client", "")
    assert span.attributes["gen_ai.usage.output_tokens"]
