"""Another server as a `Responder`: a peer, or anything that speaks OpenAI's dialect."""

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import aiohttp

from exo.chat import ChatRequest, Delta
from exo.errors import EngineFailed, ExoError, NotReady, Timeout
from exo.wire import openai

# A server that is there sends keep-alive comments during a long prefill.
_SILENCE = 60.0


class Remote:
    """Posts each request to `url` (`http://host:port`) and reads the answer's stream.

    Closing the answer closes the connection, which the other side takes for a hang-up. Use as an async
    context manager, or call `close`.
    """

    def __init__(self, url: str, *, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Remote {self.url}>"

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        if request.prompt is None:
            path, body = "/v1/chat/completions", openai.encode_chat(request)
        else:
            path, body = "/v1/completions", openai.encode_completion(request)
        headers = {"Content-Type": "application/json"}
        if request.id:
            headers["x-request-id"] = request.id
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        with self._their_errors_as_ours():
            async with self._client().post(self.url + path, data=body, headers=headers) as answer:
                if answer.status != 200:
                    raise await _refusal(answer)
                reader = openai.ChunkReader()
                async for data in answer.content.iter_any():
                    for delta in reader.feed(data):
                        yield delta
                    if reader.done:
                        return
                for delta in reader.finish():
                    yield delta

    async def get(self, path: str) -> bytes:
        """The body of a GET on the server. Raises as `respond` does."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with self._their_errors_as_ours():
            async with self._client().get(self.url + path, headers=headers) as answer:
                if answer.status != 200:
                    raise await _refusal(answer)
                return await answer.read()

    async def alive(self) -> bool:
        """Whether anyone answers there at all."""
        try:
            await self.get("/healthcheck")
        except NotReady:
            return False
        return True

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    @contextmanager
    def _their_errors_as_ours(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise NotReady(f"cannot reach {self.url}: {why}") from error
        except TimeoutError as error:
            raise Timeout(f"{self.url} was silent for {_SILENCE:g} s") from error
        except aiohttp.ClientError as error:
            raise EngineFailed(f"{self.url} broke off: {error}") from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=_SILENCE)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self._session


async def _refusal(answer: aiohttp.ClientResponse) -> ExoError:
    """The kind of error that an answer other than 200 carries."""
    seconds = answer.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isdecimal() else None
    return openai.decode_error(answer.status, await answer.read(), retry_after=retry_after)
