"""`Original` against a server that fails its clients as the original NPU server does, and against ours."""

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, Delta, Finished, Message, Reasoning, Sampling, Text, Usage
from exo.engines.scripted import Fail, Script, Wait
from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotReady, Timeout
from exo.http.original import Original
from tests.doubles import answer, finished, reasoning, text
from tests.http.test_rkllama_routes import serving

NONE_LOADED = {"error": "No models are currently loaded."}


class Npu:
    """The original server, faults and all: one place for the text of every run, from which any client that
    is being answered takes; a run goes on when its client has left, and several may be under way."""

    def __init__(self, *models: str) -> None:
        self.models = models
        self.current: str | None = None
        self.asked: list[Any] = []  # bodies of /generate
        self.calls: list[str] = []
        self.key = ""
        self.running = 0
        self.most_running = 0
        self.goes_on = asyncio.Event()  # a run stops after its first token until this is set
        self.goes_on.set()
        self.loads = asyncio.Event()  # a load takes until this is set
        self.loads.set()
        self.refuses = ""  # why it loads nothing
        self.says: list[str] | None = None  # else each run says the last word it was given over and over
        self.ends = True  # with a finish_reason
        self.raw: bytes | None = None  # is all of an answer, and the connection ends
        self.dies = False  # then, and is there again with nothing loaded
        self._text: deque[str] = deque()  # everybody's
        self._runs: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def __call__(self, **settings: Any) -> AsyncIterator[Original]:
        app = web.Application()
        app.add_routes(
            [
                web.get("/models", self._models),
                web.get("/current_model", self._current_model),
                web.post("/load_model", self._load_model),
                web.post("/unload_model", self._unload_model),
                web.post("/generate", self._generate),
            ]
        )
        async with TestServer(app) as server:
            original = Original(str(server.make_url("")), **settings)
            try:
                yield original
            finally:
                self.goes_on.set()
                self.loads.set()
                await original.close()
                await asyncio.gather(*self._runs)

    async def _models(self, http: web.Request) -> web.Response:
        return web.json_response({"models": list(self.models)})

    async def _current_model(self, http: web.Request) -> web.Response:
        self.key = http.headers.get("Authorization", "")
        if self.current is None:
            return web.json_response(NONE_LOADED, status=404)
        return web.json_response({"model_name": self.current})

    async def _load_model(self, http: web.Request) -> web.Response:
        model = (await http.json())["model_name"]
        self.calls.append(f"load {model}")
        why = "A model is already loaded. Please unload it first." if self.current else self.refuses
        if why:
            return web.json_response({"error": why}, status=400)
        await self.loads.wait()
        self.current = model
        return web.json_response({"message": f"Model {model} loaded successfully."})

    async def _unload_model(self, http: web.Request) -> web.Response:
        self.calls.append(f"unload {self.current}")
        self.current = None
        return web.json_response({"message": "Model successfully unloaded!"})

    async def _generate(self, http: web.Request) -> web.StreamResponse:
        asked = await http.json()
        self.asked.append(asked)
        self.calls.append("generate")
        if self.current is None:
            return web.json_response(NONE_LOADED, status=400)
        if self.raw is not None:
            assert http.transport
            http.transport.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + self.raw)
            http.transport.close()
            self.current = None if self.dies else self.current
            return web.Response()
        words = self.says
        if words is None:
            words = [asked["messages"][-1]["content"].split()[-1] + " "] * 6
        run = asyncio.create_task(self._run(words))
        self._runs.add(run)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(http)
        tokens = 0
        while not run.done() or self._text:
            if self._text:
                piece, tokens = self._text.popleft(), tokens + 1
                over = self.ends and run.done() and not self._text
                await response.write(spoken(piece, "stop" if over else None, 3, tokens))
            await asyncio.sleep(0)
        return response

    async def _run(self, words: list[str]) -> None:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        for word in words:
            self._text.append(word)
            await asyncio.sleep(0.001)
            await self.goes_on.wait()
        self.running -= 1


def spoken(piece: str, reason: str | None = None, prompt: int = 0, completion: int = 0) -> bytes:
    choice = {"role": "assistant", "content": piece, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return json.dumps({"id": "rkllm_chat", "choices": [choice], "usage": usage}).encode() + b"\n\n"


def ask(question: str = "Say one", model: str = "m", **fields: Any) -> ChatRequest:
    return ChatRequest(model=model, messages=(Message("user", question),), **fields)


@pytest.fixture
def npu() -> Npu:
    return Npu("m", "n")


async def first_of(original: Original, request: ChatRequest) -> Delta:
    """The first delta of an answer that is then given up."""
    async with aclosing(original.respond(request)) as deltas:
        return await anext(deltas)


async def test_an_answer_and_its_counts(npu: Npu) -> None:
    messages = (Message("system", "Be short."), Message("user", "a"), Message("assistant", "b"))
    async with npu() as original:
        deltas = await answer(original, ask(model="m"))
        assert text(deltas) == "one " * 6
        assert finished(deltas) == Finished("stop", Usage(3, 6))
        await answer(original, ChatRequest(model="m", messages=(*messages, Message("user", "c"))))
    sent = [(turn["role"], turn["content"]) for turn in npu.asked[-1]["messages"]]
    assert sent == [("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c")]


async def test_it_says_what_the_server_has_and_shows_its_key(npu: Npu) -> None:
    async with npu(key="secret") as original:
        assert await original.models() == ("m", "n")
        await answer(original, ask())
    assert npu.key == "Bearer secret"


async def test_the_server_does_mix_up_what_comes_together(npu: Npu) -> None:
    """Or the next tests would show nothing."""
    async with npu() as one, npu() as other:
        npu.current = "m"
        first, second = await asyncio.gather(answer(one, ask("Say one")), answer(other, ask("Say two")))
    assert npu.most_running == 2
    assert {text(first), text(second)} != {"one " * 6, "two " * 6}


async def test_those_who_ask_together_each_get_their_own_in_order(npu: Npu) -> None:
    words = [f"w{i}" for i in range(5)]
    async with npu() as original:
        answers = await asyncio.gather(*(answer(original, ask(f"Say {word}")) for word in words))
    assert [text(deltas) for deltas in answers] == [f"{word} " * 6 for word in words]
    assert [asked["messages"][0]["content"] for asked in npu.asked] == [f"Say {word}" for word in words]
    assert npu.most_running == 1
    assert npu.calls.count("load m") == 1


async def test_what_a_client_leaves_behind_is_nobody_elses(npu: Npu) -> None:
    npu.goes_on.clear()
    async with npu() as original:
        assert await first_of(original, ask("Say one")) == Text("one ")
        assert npu.running == 1, "it has been stopped, which cannot be"
        second = asyncio.create_task(answer(original, ask("Say two")))
        npu.goes_on.set()
        assert text(await second) == "two " * 6
    assert npu.most_running == 1
    assert "unload m" not in npu.calls


async def test_whoever_stops_waiting_leaves_the_queue(npu: Npu) -> None:
    npu.goes_on.clear()
    async with npu() as original:
        async with aclosing(original.respond(ask("Say one"))) as deltas:
            await anext(deltas)
            waiting = [asyncio.create_task(answer(original, ask(f"Say {i}"))) for i in range(3)]
            await asyncio.sleep(0)
            waiting[1].cancel()
            npu.goes_on.set()
            rest = [delta async for delta in deltas]
        assert text(rest) == "one " * 5
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert len(npu.asked) == 3


async def test_a_load_goes_on_without_the_one_who_wanted_it(npu: Npu) -> None:
    npu.loads.clear()
    async with npu() as original:
        first = asyncio.create_task(answer(original, ask("Say one")))
        while "load m" not in npu.calls:
            await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(answer(original, ask("Say two")))
        await asyncio.sleep(0)
        npu.loads.set()
        assert text(await second) == "two " * 6
    assert npu.calls == ["load m", "generate"]


async def test_another_model_replaces_the_one_that_is_loaded(npu: Npu) -> None:
    async with npu() as original:
        await answer(original, ask(model="m"))
        await answer(original, ask(model="m"))
        await answer(original, ask(model="n"))
    assert npu.calls == ["load m", "generate", "generate", "unload m", "load n", "generate"]


async def test_a_model_that_is_not_there_unloads_nothing(npu: Npu) -> None:
    npu.models = ("Qwen2.5-3B", "Phi-3-mini")
    npu.current = "Phi-3-mini"
    async with npu() as original:
        with pytest.raises(ModelNotFound, match=r"'Qwen2.5-7B' is not on .*; there is Qwen2.5-3B") as missing:
            await answer(original, ask(model="Qwen2.5-7B"))
    assert missing.value.param == "model"
    assert npu.calls == []


async def test_a_server_that_has_restarted_is_asked_to_load_again(npu: Npu) -> None:
    async with npu() as original:
        await answer(original, ask())
        npu.current = None
        assert text(await answer(original, ask())) == "one " * 6
    assert npu.calls == ["load m", "generate", "load m", "generate"]


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    original = Original(f"http://127.0.0.1:{port}")
    for _ in range(2):
        with pytest.raises(NotReady, match=f"cannot reach http://127.0.0.1:{port}: .*refused"):
            await answer(original, ask())
    await original.close()


async def test_what_the_server_says_to_a_load_is_passed_on(npu: Npu) -> None:
    npu.refuses = "FROM not defined in Modelfile"
    async with npu() as original:
        with pytest.raises(EngineFailed, match="/load_model answered with 400: FROM not defined"):
            await answer(original, ask())


@pytest.mark.parametrize("fields", [{"sampling": Sampling(temperature=0)}, {"prompt": "x"}])
async def test_what_cannot_be_passed_on_never_leaves(npu: Npu, fields: dict[str, Any]) -> None:
    async with npu() as original:
        with pytest.raises(BadRequest):
            await answer(original, ask(**fields))
    assert npu.calls == []


async def test_thoughts_are_told_from_the_answer(npu: Npu) -> None:
    npu.says = ["<th", "ink>", "Hm", "m</", "think>", "\n\n", "So", "."]
    async with npu() as original:
        deltas = await answer(original, ask())
    assert (reasoning(deltas), text(deltas)) == ("Hmm", "So.")
    assert 0 < finished(deltas).usage.reasoning_tokens < 8


async def test_thoughts_that_the_template_opens_are_told_by_the_models_name(npu: Npu) -> None:
    npu.says = ["Hm", "m</", "think>", "\n\n", "So", "."]
    async with npu() as original:
        assert text(await answer(original, ask())) == "Hmm</think>\n\nSo."
        npu.models = ("DeepSeek-R1-1.5B",)
        deltas = await answer(original, ask(model="DeepSeek-R1-1.5B"))
    assert (reasoning(deltas), text(deltas)) == ("Hmm", "So.")


async def test_the_length_is_kept_here(npu: Npu) -> None:
    npu.says = ["a", "b", "c", "d"]
    async with npu() as original:
        deltas = await answer(original, ask(sampling=Sampling(max_tokens=2)))
        assert text(deltas) == "ab"
        assert finished(deltas) == Finished("length", Usage(3, 2))
        assert text(await answer(original, ask())) == "abcd"


async def test_stop_strings_are_kept_here(npu: Npu) -> None:
    npu.says = ["one ", "tw", "o three"]
    async with npu() as original:
        deltas = await answer(original, ask(stop=("two",)))
        assert text(deltas) == "one "
        assert finished(deltas).reason == "stop"
        assert text(await answer(original, ask())) == "one two three"


async def test_an_end_token_that_slips_through_is_not_text(npu: Npu) -> None:
    npu.says = ["So.", "<|im_", "end|>"]
    async with npu() as original:
        assert text(await answer(original, ask())) == "So."


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        spoken("<|im_end|>", "stop"),
        spoken("\n<|im_") + spoken("end|>"),
        spoken(""),
        b"<html>Internal Server Error</html>",
        b'{"error": "matmul failed"}',
        b'{"status": "error", "message": "Invalid JSON data!"}',
    ],
)
async def test_an_answer_that_is_none_is_a_failure(npu: Npu, raw: bytes) -> None:
    npu.raw = raw
    async with npu() as original:
        with pytest.raises(EngineFailed):
            await answer(original, ask())
        npu.raw = None
        assert text(await answer(original, ask())) == "one " * 6


async def test_an_answer_may_be_empty_if_the_server_says_so(npu: Npu) -> None:
    npu.raw = spoken("", "stop")
    async with npu() as original:
        assert await answer(original, ask()) == [Finished("stop", Usage())]


async def test_a_failure_in_the_middle_comes_after_what_was_said(npu: Npu) -> None:
    npu.raw = spoken("So") + b'{"error": "the NPU is gone"}\n\n'
    async with npu() as original, aclosing(original.respond(ask())) as deltas:
        assert await anext(deltas) == Text("So")
        with pytest.raises(EngineFailed, match="the NPU is gone"):
            await anext(deltas)


async def test_an_end_without_a_reason_is_one_while_the_model_is_loaded(npu: Npu) -> None:
    npu.ends = False
    async with npu() as original:
        deltas = await answer(original, ask())
    assert text(deltas) == "one " * 6
    assert finished(deltas).reason == "stop"


async def test_a_server_that_dies_in_the_middle_has_not_answered(npu: Npu) -> None:
    npu.raw, npu.dies = spoken("So far"), True
    async with npu() as original, aclosing(original.respond(ask())) as deltas:
        assert await anext(deltas) == Text("So far")
        with pytest.raises(EngineFailed, match="has restarted in the middle"):
            await anext(deltas)


async def test_silence_is_a_failure_and_the_next_one_starts_afresh(npu: Npu) -> None:
    npu.goes_on.clear()
    async with npu(silence=0.2) as original:
        async with aclosing(original.respond(ask("Say one"))) as deltas:
            assert await anext(deltas) == Text("one ")
            with pytest.raises(Timeout, match=r"silent for 0\.2 s"):
                await anext(deltas)
        npu.goes_on.set()
        while npu.running:
            await asyncio.sleep(0)
        await answer(original, ask("Say two"))
    assert npu.calls == ["load m", "generate", "unload m", "load m", "generate"]


async def test_closing_ends_what_is_under_way(npu: Npu) -> None:
    npu.goes_on.clear()
    async with npu() as original, aclosing(original.respond(ask())) as deltas:
        await anext(deltas)
        await original.close()
        with pytest.raises(NotReady, match="was closed"):
            await anext(deltas)


# Against our own server


async def test_our_own_server_is_understood(tmp_path: Path) -> None:
    script = Script(steps=(Reasoning("Hm."), Text("Hel"), Text("lo"), Finished("length", Usage(5, 3))))
    async with serving(tmp_path, a=script, b=script) as server:
        original = Original(str(server.make_url("")))
        assert await original.models() == ("a", "b")
        for model in ("a", "b", "a"):
            deltas = await answer(original, ask(model=model))
            assert (reasoning(deltas), text(deltas)) == ("Hm.", "Hello")
            assert finished(deltas).reason == "length"
            assert finished(deltas).usage.completion_tokens == 3
            assert await server.current() == model
        await original.close()


async def test_a_failure_of_our_own_server_is_understood(tmp_path: Path) -> None:
    failing = Script(steps=(Text("So"), Wait(0.02), Fail("no NPU")))
    async with serving(tmp_path, a=failing, b=Script(steps=(Fail("no NPU", "not_ready"),))) as server:
        original = Original(str(server.make_url("")))
        async with aclosing(original.respond(ask(model="a"))) as deltas:
            assert await anext(deltas) == Text("So")
            with pytest.raises(EngineFailed, match="no NPU"):
                await anext(deltas)
        with pytest.raises(NotReady, match="no NPU"):
            await answer(original, ask(model="b"))
        await original.close()
