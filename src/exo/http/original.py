"""An NPU server that speaks only the original dialect, as a `Responder`.

Theory of operation. Such a server has one model loaded and one place for the text of all its clients: with
two requests under way each gets pieces of both, and a client that hangs up leaves it generating, so that the
next one gets the rest. There is no way to make it stop. So everything said to it happens in *visits*, one
after another in order of arrival. A visit is a task of its own: it makes the model the current one, asks, and
reads the answer to its very end. Whoever asked takes the pieces as they come; one who hangs up, or has had
enough, is gone at once, and the visit reads on for nobody until the server is idle. Only then does it pass
the turn on.

The turn is an `asyncio.Lock`, which is fair and which a cancelled waiter just leaves. It is taken by whoever
asks and released by the visit; as it is held across the network, what ends a visit in any case is `silence`.

That such servers behave so is from reports and their code; none was at hand, and the tests bring their own.
"""

import asyncio
import difflib
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial

import aiohttp
import msgspec

from exo.chat import ChatRequest, Delta, Finished, FinishReason, Usage
from exo.errors import ConnectionLost, EngineFailed, ExoError, ModelNotFound, NotFound, NotReady, Timeout
from exo.text.channels import Channels
from exo.text.thoughts import opens_thoughts
from exo.traces import OFF, Traces, asking, usage
from exo.wire import openai, rkllama

log = logging.getLogger(__name__)

# What a back end that has failed was seen to say as a whole answer, with status 200; behind an answer it is
# an end that has slipped through.
_END = "<|im_end|>"
_CONNECT = 5.0


class _Visit:
    """What one answer's visit has brought, for the one who asked."""

    def __init__(self) -> None:
        self.wanted = True
        self.usage = Usage()
        self.reason: FinishReason | None = None
        self._pieces: deque[str] = deque()
        self._news = asyncio.Event()
        self._error: ExoError | None = None
        self._over = False

    def say(self, pieces: list[str], reader: rkllama.AnswerReader) -> None:
        if self.wanted:
            self._pieces += pieces
        self.usage, self.reason = reader.usage, reader.reason
        self._news.set()

    def end(self, error: ExoError | None) -> None:
        self._error, self._over = error, True
        self._news.set()

    async def next(self) -> str | None:
        """The next piece of text; None at the end. Raises what the visit failed with, after every piece."""
        while not self._pieces and not self._over:
            self._news.clear()
            await self._news.wait()
        if self._pieces:
            return self._pieces.popleft()
        if self._error:
            raise self._error
        return None


class Original:
    """Asks the server at `url` (`http://host:port`), one request after another.

    The answer's text is the model's own, so thoughts are told from the answer here, and stop strings and
    `max_tokens` are kept here, a piece counting as a token. Everything else that the dialect cannot carry is
    refused with `BadRequest`. Where a chat template opens the thought itself, its opening tag is not in the
    text; such models are known by name.

    Closing an answer lets go of its caller at once, but cannot stop the NPU (see above). After `silence`
    seconds without a byte a request has failed; it has to be longer than the longest prefill, as nothing
    comes during one. Call `close` at the end.
    """

    def __init__(
        self, url: str, *, key: str | None = None, silence: float = 300.0, traces: Traces = OFF
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._traces = traces
        self._silence = silence
        self._session: aiohttp.ClientSession | None = None
        self._turn = asyncio.Lock()
        self._visits: set[asyncio.Task[ExoError | None]] = set()
        self._suspect = False
        """Whether the server may still be generating for a visit that was broken off."""

    def __repr__(self) -> str:
        return f"<Original {self.url}>"

    async def models(self) -> tuple[str, ...]:
        """The models on the server's disk. Raises as `respond` does."""
        return rkllama.decode_models(await self._get("/models"))

    async def respond(
        self, request: ChatRequest, *, silence: float | None = None
    ) -> AsyncGenerator[Delta, None]:
        """`silence` is for this answer, in place of the one for all; None is that one."""
        body = rkllama.encode_generate(request)
        await self._turn.acquire()
        # No await between the turn and the task whose end will release it.
        visit = _Visit()
        seconds = self._silence if silence is None else silence
        task = asyncio.get_running_loop().create_task(self._pay(visit, request.model, body, seconds))
        self._visits.add(task)
        task.add_done_callback(partial(self._leave, visit))
        try:
            with asking(self._traces, request, self.url) as span:
                async with aclosing(self._deltas(visit, request)) as deltas:
                    async for delta in deltas:
                        if isinstance(delta, Finished):
                            span.note(usage(delta.usage))
                            span.end()
                        yield delta
        finally:
            visit.wanted = False

    async def close(self) -> None:
        """Breaks off what is under way, and closes the connections."""
        for task in self._visits:
            task.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _deltas(self, visit: _Visit, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        channels = Channels(stop=request.stop, ends=(_END,), thinking=opens_thoughts(request.model))
        pieces, unsaid, said = 0, "", False
        cut: FinishReason | None = None
        while cut is None and (piece := await visit.next()) is not None:
            pieces += 1
            unsaid = "" if said else unsaid + piece
            deltas = channels.feed(piece)
            if unsaid.lstrip().startswith(_END):
                raise EngineFailed(f"{self.url} answered with {_END} alone: its model does not answer at all")
            for delta in deltas:
                said = True
                yield delta
            if channels.stopped:
                cut = "stop"
            elif pieces == request.sampling.max_tokens:
                cut = "length"
        for delta in channels.finish():
            yield delta
        usage = visit.usage if cut is None else msgspec.structs.replace(visit.usage, completion_tokens=pieces)
        usage = msgspec.structs.replace(usage, reasoning_tokens=channels.reasoning_tokens)
        yield Finished(cut or visit.reason or "stop", usage, stop=channels.stop)

    async def _pay(self, visit: _Visit, model: str, body: bytes, silence: float) -> ExoError | None:
        """Makes the visit, and says what it failed with. What its caller leaves is read all the same."""
        try:
            with self._their_errors_as_ours():
                await self._make_current(model)
                if visit.wanted:
                    with self._their_errors_as_ours(silence):
                        await self._ask(visit, body, silence)
        except ExoError as error:
            if not visit.wanted:
                log.warning("%s failed after its client had left: %s", self.url, error.message)
            return error
        except Exception as error:
            failure = EngineFailed(f"asking {self.url} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure
        return None

    def _leave(self, visit: _Visit, task: asyncio.Task[ExoError | None]) -> None:
        self._visits.discard(task)
        self._turn.release()
        visit.end(NotReady(f"the client of {self.url} was closed") if task.cancelled() else task.result())

    async def _ask(self, visit: _Visit, body: bytes, silence: float) -> None:
        reader = rkllama.AnswerReader()
        self._suspect = True
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence)
        async with self._client().post(
            self.url + "/generate", data=body, headers=self._headers(), timeout=timeout
        ) as answer:
            if answer.status != 200:
                self._suspect = False
                raise await _refusal(answer)
            async for data in answer.content.iter_any():
                visit.say(reader.feed(data), reader)
        reader.finish()
        if reader.reason is None and not await self._has_any():
            # Its streams have no length and need no end, so a crash looks like an answer that is over.
            raise ConnectionLost(f"{self.url} broke off: it has restarted in the middle of the answer")
        self._suspect = False

    async def _make_current(self, model: str) -> None:
        """Sees to it that the model is the one that is loaded, whatever happened to the server meanwhile."""
        current = await self._current()
        if current == model and not self._suspect:
            return
        if current != model and model not in (there := await self.models()):
            near = difflib.get_close_matches(model, there, n=3, cutoff=0.4) or sorted(there)[:10]
            text = f"model '{model}' is not on {self.url}; there is {', '.join(near) or 'no model at all'}"
            raise ModelNotFound(text, param="model")
        if current is not None:
            await self._post("/unload_model", rkllama.encode_load_model(current))
        await self._post("/load_model", rkllama.encode_load_model(model))
        self._suspect = False

    async def _current(self) -> str | None:
        try:
            return rkllama.decode_current_model(await self._get("/current_model"))
        except NotFound:
            return None

    async def _has_any(self) -> bool:
        """Whether the server is there and has a model loaded."""
        try:
            return await self._current() is not None
        except NotReady:
            return False

    async def _get(self, path: str) -> bytes:
        with self._their_errors_as_ours():
            async with self._client().get(self.url + path, headers=self._headers()) as answer:
                if answer.status != 200:
                    raise await _refusal(answer)
                return await answer.read()

    async def _post(self, path: str, body: bytes) -> None:
        async with self._client().post(self.url + path, data=body, headers=self._headers()) as answer:
            if answer.status != 200:
                refusal = await _refusal(answer)
                raise EngineFailed(f"{self.url}{path} answered with {answer.status}: {refusal.message}")
            await answer.read()

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", **key}

    @contextmanager
    def _their_errors_as_ours(self, silence: float | None = None) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise NotReady(f"cannot reach {self.url}: {why}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise NotReady(f"cannot reach {self.url}: nothing answers within {_CONNECT:g} s") from error
        except TimeoutError as error:
            seconds = self._silence if silence is None else silence
            raise Timeout(f"{self.url} was silent for {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise ConnectionLost(f"{self.url} broke off: {error}") from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=self._silence)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session


async def _refusal(answer: aiohttp.ClientResponse) -> ExoError:
    """The kind of error that an answer other than 200 carries."""
    return openai.decode_error(answer.status, await answer.read())
