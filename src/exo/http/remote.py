"""Another server as a `Responder`: a peer, or anything that speaks OpenAI's dialect."""

import os
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import aiohttp

from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Finished, Trace
from exo.engine import SpellRequest
from exo.errors import (
    BadRequest,
    ConnectionLost,
    ExoError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    NotReady,
    Timeout,
)
from exo.http.headers import REQUEST_ID_HEADER, hop
from exo.traces import OFF, Traces, asking, usage
from exo.traces.context import headers as of_trace
from exo.wire import openai, tokens

# A node that is there sends keep-alive comments during a long prefill.
_SILENCE = 60.0
_CONNECT = 5.0


class Remote:
    """Posts each request to `url` (`http://host:port`) and reads the answer's stream.

    `name` is what its errors call it. Where the server is a node of a cluster, `secret` is the cluster's.
    `tls` is what an https:// one is trusted by, in place of the system's CAs, and shown. Each answer and
    embedding is a span of `traces`. After `silence` seconds without a byte an answer has failed. Closing the
    answer closes the connection, which the other side takes for a hang-up. Call `close` at the end.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        name: str | None = None,
        silence: float = _SILENCE,
        secret: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        traces: Traces = OFF,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._name = name or self.url
        self._silence = silence
        self._connect = min(_CONNECT, silence)
        self._secret = secret
        self._tls = tls
        self._traces = traces
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Remote {self.url}>"

    async def respond(
        self, request: ChatRequest, *, silence: float | None = None
    ) -> AsyncGenerator[Delta, None]:
        """`silence` is for this answer, in place of the one for all; None is that one."""
        if request.prompt is None:
            path, body = "/v1/chat/completions", openai.encode_chat(request)
        else:
            path, body = "/v1/completions", openai.encode_completion(request)
        with asking(self._traces, request, self.url) as span, self._their_errors_as_ours(silence):
            headers = self._headers(request, span.trace)
            async with await self._ask("POST", path, headers, body, silence) as answer:
                reader = openai.ChunkReader()
                async for data in answer.content.iter_any():
                    for delta in reader.feed(data):
                        if isinstance(delta, Finished):
                            span.note(usage(delta.usage))
                            span.end()
                        yield delta
                    if reader.done:
                        return
                for delta in reader.finish():
                    yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Raises as `respond` does."""
        body = openai.encode_embeddings(request)
        with asking(self._traces, request, self.url) as span, self._their_errors_as_ours():
            headers = self._headers(request, span.trace)
            async with await self._ask("POST", "/v1/embeddings", headers, body) as answer:
                return openai.decode_embeddings_answer(await answer.read(), len(request.texts))

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        """Raises as `respond` does, and `BadRequest` where the server does not tell tokens."""
        body = tokens.encode_tokenize(request, begin=begin)
        return tokens.decode_tokens(await self._told("/tokenize", request, body), request)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        """Raises as `tokens` does."""
        return tokens.decode_pieces(await self._told("/detokenize", request, tokens.encode_spell(request)))

    async def _told(self, path: str, request: ChatRequest | SpellRequest, body: bytes) -> bytes:
        """The answer of a route that not every server has."""
        with self._their_errors_as_ours():
            try:
                headers = self._headers(request, request.trace)
                async with await self._ask("POST", path, headers, body) as answer:
                    return await answer.read()
            except ModelNotFound:
                raise
            except (NotFound, MethodNotAllowed) as error:
                raise BadRequest(
                    f"{self._name} has no {path}: it does not tell its models' tokens", param="model"
                ) from error

    async def get(self, path: str) -> bytes:
        """The body of a GET on the server. Raises as `respond` does."""
        with self._their_errors_as_ours():
            async with await self._ask("GET", path, self._authorization()) as answer:
                return await answer.read()

    async def alive(self) -> bool:
        """Whether anyone answers there at all. Raises `NotReady` for somebody who cannot be trusted."""
        try:
            await self.get("/healthcheck")
        except NotReady as error:
            if isinstance(error.__cause__, aiohttp.ClientSSLError):
                raise
            return False
        return True

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _ask(
        self,
        verb: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        """The answer, once its head has come; raises what one other than 200 says.

        A connection that was kept from an earlier request may be a dead one, as the server has restarted
        since. That shows only when it is used: then the request goes out again, on another one.
        """
        silence = self._silence if silence is None else silence
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect, sock_read=silence)
        while True:
            connection = _Connection()
            try:
                answer = await self._client().request(
                    verb,
                    self.url + path,
                    data=body,
                    headers=headers,
                    timeout=timeout,
                    trace_request_ctx=connection,
                )
            except (
                aiohttp.ServerDisconnectedError,
                aiohttp.ClientConnectionResetError,
                aiohttp.ClientOSError,
            ):
                if not connection.kept:
                    raise
            else:
                if answer.status == 200:
                    return answer
                async with answer:
                    raise await _refusal(answer)

    def _headers(self, request: ChatRequest | EmbedRequest | SpellRequest, trace: Trace) -> dict[str, str]:
        """`trace` is what the other server's work is part of."""
        headers = {
            "Content-Type": "application/json",
            **self._authorization(),
            **hop(request.via, self._secret, request.client),
            **of_trace(trace),
        }
        if request.id:
            headers[REQUEST_ID_HEADER] = request.id
        return headers

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    @contextmanager
    def _their_errors_as_ours(self, silence: float | None = None) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise NotReady(f"cannot reach {self._name}: {_reason(error)}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise NotReady(
                f"cannot reach {self._name}: nothing answers within {self._connect:g} s"
            ) from error
        except TimeoutError as error:
            raise self._silent(self._silence if silence is None else silence) from error
        except aiohttp.ClientError as error:
            # Without its traceback in the log: the cause is on the other machine.
            raise ConnectionLost(f"{self._name} broke off: {error}") from None

    def _silent(self, seconds: float) -> ExoError:
        """What it means that nothing has come for so long."""
        return Timeout(f"{self._name} was silent for {seconds:g} s")

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_kept)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
                trace_configs=[trace],
            )
        return self._session


class _Connection:
    """What a request went out on: `kept` from an earlier one, or new."""

    kept = False


async def _note_kept(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    parameters: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    context.trace_request_ctx.kept = True


def _reason(error: aiohttp.ClientConnectorError) -> str:
    """In the system's words; asyncio has its own for what the system calls "Connection refused"."""
    if isinstance(error.os_error, socket.gaierror):
        return error.os_error.strerror or str(error)
    if isinstance(error.os_error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted here: {error.os_error.verify_message}"
    if isinstance(error.os_error, ssl.SSLError):
        return f"no TLS with it: {(error.os_error.reason or 'no reason').lower().replace('_', ' ')}"
    return os.strerror(error.errno) if error.errno else str(error)


async def _refusal(answer: aiohttp.ClientResponse) -> ExoError:
    """The kind of error that an answer other than 200 carries."""
    seconds = answer.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isdecimal() else None
    return openai.decode_error(answer.status, await answer.read(), retry_after=retry_after)
