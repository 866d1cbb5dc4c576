"""What a chat asks: the node at a URL, the one on this machine, or one of its own where none runs."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp
import msgspec

from exo.chat import ChatRequest, Delta
from exo.choice.routing import missing
from exo.cli import https, options
from exo.cli.chat.route import Origin, origin
from exo.errors import (
    BadRequest,
    ExoError,
    Forbidden,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    Unauthorized,
)
from exo.http.automatic import NAMES
from exo.http.headers import ROUTE_HEADER
from exo.http.remote import Remote
from exo.nodes import Cluster
from exo.wire import openai

_BUNDLED = "exo-demo"

# What a server that is no node says of a node's own routes.
_NO_ROUTE = (NotFound, MethodNotAllowed, BadRequest, Forbidden)


class Offers(Protocol):
    """What can be asked for models. Raises a kind of `errors.ExoError`."""

    @property
    def where(self) -> str:
        """How a user calls it."""
        ...

    async def models(self) -> Sequence[str]:
        """Those that can be asked for, "auto" first where it can; none of a server that does not say."""
        ...


class Asked(Offers, Protocol):
    """A `Responder` that says more. Each method raises a kind of `errors.ExoError`, as `respond` does."""

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]: ...

    async def origin(self) -> Origin:
        """Where the latest answer came from."""
        ...

    async def unload(self, model: str) -> None:
        """Takes the model out of memory there, as soon as nobody uses it."""
        ...


class Server(Remote):
    """A node, or any server that speaks OpenAI's dialect."""

    _route = ""

    @property
    def where(self) -> str:
        return f"at {self.url}"

    async def models(self) -> Sequence[str]:
        try:
            return [card.id for card in openai.decode_models(await self.get("/v1/models"), "remote")]
        except (NotFound, MethodNotAllowed):
            return ()

    async def origin(self) -> Origin:
        try:
            cluster = msgspec.json.decode(await self.get("/v1/cluster"), type=Cluster)
        except (*_NO_ROUTE, msgspec.DecodeError, UnicodeDecodeError):
            return Origin()
        return origin(self._route, cluster.me.id, [node.id for node in cluster.peers])

    async def unload(self, model: str) -> None:
        headers = {"Content-Type": "application/json", **self._authorization()}
        body = msgspec.json.encode({"model": model, "keep_alive": 0})
        with self._their_errors_as_ours():
            try:
                async with await self._ask("POST", "/api/generate", headers, body) as answer:
                    await answer.read()
            except ModelNotFound:
                raise
            except (NotFound, MethodNotAllowed) as error:
                raise BadRequest(f"{self.url} is no node, and keeps its models as it likes") from error

    async def _ask(
        self,
        verb: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        answer = await super()._ask(verb, path, headers, body, silence)
        if verb == "POST":
            self._route = answer.headers.get(ROUTE_HEADER, "")
        return answer


async def asked(url: str | None, stack: AsyncExitStack) -> Asked:
    """What answers at `url`, or here, until `stack` is closed."""
    node = options.asked(url)
    server = Server(node.url, key=node.key, tls=node.tls)
    stack.push_async_callback(server.close)
    if url or await server.alive():
        return server
    from exo.assembly import local_node
    from exo.cli.chat.here import Here

    return Here(await stack.enter_async_context(local_node(options.local_settings())))


async def default_model(there: Offers) -> str:
    """The model to ask where none is named: "auto", else the only one, else the bundled one. Raises
    `BadRequest` naming those to choose from."""
    models = await there.models()
    if len(models) == 1:
        return models[0]
    for model in ("auto", _BUNDLED):
        if model in models:
            return model
    listed = f"it has {', '.join(models[:10])}" if models else "it does not say which it has"
    raise BadRequest(f"name a MODEL {there.where}: {listed}", param="model")


def check_offered(model: str, models: Sequence[str]) -> None:
    """Raises `ModelNotFound` with the nearest names. A server without a list has whatever it has."""
    if models and model not in models and not (model in NAMES and "auto" in models):
        raise ModelNotFound(missing(model, sorted(models)), param="model")


def explained(error: ExoError) -> str:
    """Its message, with what can be done about it from here."""
    if isinstance(error, Unauthorized):
        return f"{error.message}; `exo run` sends what is in EXO_API_KEY"
    return error.message + https.advice(error)
