"""The cluster as one `Responder`: each request goes where it ends first, and elsewhere if that fails.

Theory of operation. `routing.choose` picks a node from what the nodes say of themselves and from what this
one has under way on them, which it knows sooner. A node that fails is left out, and the next best is chosen:
before the first delta the request is simply sent again; after it, the other node is told what has been said
and goes on from there, so the client reads one answer. A node that is gone, or that cannot serve now, says
nothing against the request, which is tried until no node is left; one that breaks engines is not. A request
that another node passed on is answered by this machine alone, so nothing goes in circles.
"""

import asyncio
import logging
import ssl
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec

from exo.cards import ModelCard, Progress, Recipe
from exo.chat import (
    ChatRequest,
    Delta,
    Embeddings,
    EmbedRequest,
    Finished,
    Reasoning,
    SoFar,
    Text,
    ToolCall,
)
from exo.choice import routing
from exo.choice.nearest import nearest
from exo.choice.reasons import Reason, reason
from exo.choice.routing import Asked, Route
from exo.cluster.traffic import Traffic
from exo.engine import SpellRequest
from exo.errors import (
    ConnectionLost,
    EngineFailed,
    ExoError,
    ModelNotFound,
    NotReady,
    Overloaded,
    Timeout,
    Unauthorized,
)
from exo.http.peer import Peer
from exo.node.local import LocalNode
from exo.nodes import Cluster, Node
from exo.traces import OFF, Traces

log = logging.getLogger(__name__)

T = TypeVar("T")

# A node that is cut off is silent; one that is there says something every half a second.
_SILENCE = 2.0
# A request that breaks the engine of two nodes that are there would break a third one's, too.
_MOST_BROKEN = 2
_MOST_TAKEN = 512
# What another node may do better.
_FAILURES = (NotReady, EngineFailed, Timeout, Overloaded, ModelNotFound, Unauthorized)


class ClusterNode:
    """This node and its peers as one: a `desk.Served`. Deleting and, but for `load_at`, loading are this
    machine's own affair.

    `peers` gives the others as they are now. `key` and `secret` are what they want to see. `on_failover` is
    told "before" or "within" an answer, `on_route` each node that is chosen, and what spoke for it. What is
    asked of other nodes is in `traces`.
    """

    def __init__(
        self,
        here: LocalNode,
        peers: Callable[[], Sequence[Node]],
        *,
        key: str | None = None,
        secret: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        on_failover: Callable[[str], None] = lambda when: None,
        on_route: Callable[[str, Reason], None] = lambda node, why: None,
        traces: Traces = OFF,
    ) -> None:
        self._here = here
        self._peers = peers
        self._key = key
        self._secret = secret
        self._tls = tls
        self._on_failover = on_failover
        self._on_route = on_route
        self._traces = traces
        self._remotes: dict[str, Peer] = {}
        self._traffic = Traffic(peers)
        self._taken: OrderedDict[str, str] = OrderedDict()  # of the latest requests, by id

    def cluster(self) -> Cluster:
        return Cluster(me=self._here.state(), peers=tuple(self._peers()))

    async def cards(self) -> Sequence[ModelCard]:
        """The models of all nodes; this one's card where several have the same."""
        cards = {card.id: card for peer in self._peers() for card in peer.cards}
        return tuple((cards | {card.id: card for card in await self._here.cards()}).values())

    async def card(self, model: str, via: str = "") -> ModelCard:
        """The model that a request means: this node's, else a peer's, unless a peer asks."""
        # A peer's model is no reason to look at the disk again.
        if not via and model and not self._here.has(model):
            for peer in self._peers():
                for card in peer.cards:
                    if card.id == model:
                        return card
        try:
            return await self._here.card(model, via)
        except (ModelNotFound, NotReady) as absent:
            known = {card.id: card for peer in self._peers() for card in peer.cards}
            if not via and model in known:
                return known[model]
            if via or not known or not isinstance(absent, ModelNotFound):
                raise
            known |= {card.id: card for card in await self._here.cards()}
            raise self._here.absent(model, known) from absent

    def explain(self, asked: Asked) -> Sequence[Route]:
        """Where such a request could go, best first, with the reasons."""
        return routing.explain(asked, self.cluster(), sent=self._traffic.sent)

    def taken(self, id: str) -> str:
        """Which node answers, or answered, request `id`, and why; "" for one of long ago."""
        return self._taken.get(id, "")

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        if request.via:
            async with aclosing(self._here.respond(request)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        request = self._here.defaults_for(request, await self.card(request.model))
        answer = _Answer(request)
        tried: dict[str, ExoError] = {}
        while not answer.over:
            route = self._choose(routing.asked(request), tried)
            self._note(request.id, route)
            if len(tried) == 1:
                self._on_failover("within" if answer.begun else "before")
            try:
                with self._traffic.on(route.node.id):
                    responder = self._responder(route.node)
                    async with aclosing(responder.respond(answer.rest(self._via(route)))) as deltas:
                        async for delta in deltas:
                            yield answer.passed(delta)
            except _FAILURES as error:
                failure = tried[route.node.id] = _ours(route.node, error)
                if not (answer.can_go_on and self._may_go_on(tried)):
                    raise failure from error.__cause__
                log.warning("%s failed: %s", route.node.id, failure.message)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        if request.via:
            return await self._here.embed(request)
        request = msgspec.structs.replace(request, model=(await self.card(request.model)).id)
        asked = Asked(model=request.model, prompt=sum(map(len, request.texts)) // 4)
        return await self._somewhere(
            asked, lambda there, via: there.embed(msgspec.structs.replace(request, via=via))
        )

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        if request.via:
            return await self._here.tokens(request, begin=begin)
        request = self._here.defaults_for(request, await self.card(request.model))
        return await self._somewhere(
            Asked(model=request.model),
            lambda there, via: there.tokens(msgspec.structs.replace(request, via=via), begin=begin),
        )

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        if request.via:
            return await self._here.spell(request)
        request = msgspec.structs.replace(request, model=(await self.card(request.model)).id)
        return await self._somewhere(
            Asked(model=request.model),
            lambda there, via: there.spell(msgspec.structs.replace(request, via=via)),
        )

    async def load(self, model: str, client: str = "") -> None:
        await self._here.load(model, client)

    async def load_at(self, node: Node, model: str, client: str = "") -> None:
        """Brings the model into memory on one node. Raises what that fails with there."""
        there = self._responder(node)
        if isinstance(there, Peer):
            await there.load(model, via=self._here.id, client=client)
        else:
            await there.load(model, client)

    async def unload(self, model: str) -> None:
        await self._here.unload(model)

    def keep(self, model: str, seconds: float | None) -> None:
        self._here.keep(model, seconds)

    async def delete(self, model: str) -> None:
        await self._here.delete(model)

    def create(self, model: str, recipe: Recipe) -> None:
        self._here.create(model, recipe)

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        async with aclosing(self._here.pull(name)) as steps:
            async for progress in steps:
                yield progress

    async def close(self) -> None:
        await asyncio.gather(*(remote.close() for remote in self._remotes.values()))

    async def _somewhere(self, asked: Asked, ask: Callable[[LocalNode | Peer, str], Awaitable[T]]) -> T:
        """What `ask` gives for the node where this ends first, and for which node passes it on; of the next
        best one where that fails."""
        tried: dict[str, ExoError] = {}
        while True:
            route = self._choose(asked, tried)
            try:
                with self._traffic.on(route.node.id):
                    return await ask(self._responder(route.node), self._via(route))
            except _FAILURES as error:
                failure = tried[route.node.id] = _ours(route.node, error)
                if not self._may_go_on(tried):
                    raise failure from error.__cause__
                log.warning("%s failed: %s", route.node.id, failure.message)

    def _choose(self, asked: Asked, tried: Mapping[str, ExoError]) -> Route:
        """The best node that has not failed; raises what they failed with where none is left."""
        cluster = self.cluster()
        if not cluster.peers and not tried:
            # Alone: whether there is room for it is the queue's to say.
            card = next((card for card in cluster.me.cards if card.id == asked.model), None)
            if card is not None:
                self._on_route(cluster.me.id, "only")
                return Route(cluster.me, card, ("the only node",))
        sent, counted = self._traffic.sent, self._traffic.counted
        try:
            routes = routing.explain(asked, cluster, sent=sent, counted=counted, without=tried.keys())
            self._on_route(routes[0].node.id, reason([each.costs for each in routes], failed=bool(tried)))
            return routes[0]
        except (NotReady, ModelNotFound, Overloaded) as none_left:
            if not tried:
                raise
            raise _joined(tuple(tried.values()), none_left) from none_left

    def _may_go_on(self, tried: Mapping[str, ExoError]) -> bool:
        return sum(_is_broken(error) for error in tried.values()) < _MOST_BROKEN

    def _note(self, id: str, route: Route) -> None:
        self._taken[id] = f"{route.node.id}: {'; '.join(route.why)}"
        self._taken.move_to_end(id)
        if len(self._taken) > _MOST_TAKEN:
            self._taken.popitem(last=False)

    def _via(self, route: Route) -> str:
        me = self._here.id
        return "" if route.node.id == me else me

    def _responder(self, node: Node) -> LocalNode | Peer:
        if node.id == self._here.id:
            return self._here
        url = nearest(node.url, node.addresses, self._here.addresses())
        remote = self._remotes.get(url)
        if remote is None:
            remote = self._remotes[url] = Peer(
                url,
                key=self._key,
                name=f"node {node.id}",
                silence=_SILENCE,
                secret=self._secret,
                tls=self._tls,
                traces=self._traces,
            )
        return remote


def _is_broken(error: ExoError) -> bool:
    """Whether an engine failed whose node is still there."""
    return isinstance(error, EngineFailed) and not isinstance(error, ConnectionLost)


def _joined(failures: Sequence[ExoError], last: ExoError) -> ExoError:
    """What to tell the client when no node is left: what went wrong on one that is there, else the shortest
    wait where one is only full, else that all which could have answered are gone or not ready."""
    for error in failures:
        if _is_broken(error) or isinstance(error, Timeout):
            return error
    full = [error for error in (*failures, last) if isinstance(error, Overloaded)]
    if full:
        waits = [error.retry_after for error in full if error.retry_after is not None]
        return Overloaded(full[0].message, retry_after=min(waits, default=None))
    for error in failures:
        if isinstance(error, NotReady):
            return error
        if isinstance(error, ConnectionLost):
            return NotReady(f"no node is left that could answer: {error.message}")
    return failures[0]


def _ours(node: Node, error: ExoError) -> ExoError:
    """What another node failed with. That it wants another key is this node's affair: its client has shown
    the right one."""
    if not isinstance(error, Unauthorized):
        return error
    return NotReady(
        f"{node.id} does not let this node in ({error.message}): all nodes need one EXO_API_KEY and secret"
    )


class _Answer:
    """What has been said of an answer, and how it could be gone on with."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._text = request.so_far.text if request.so_far else ""
        self._reasoning = request.so_far.reasoning if request.so_far else ""
        self._tokens = 0  # a delta is a token, mostly
        self._thought = 0  # of these, those of reasoning
        self._before = 0  # tokens that earlier nodes have said
        self._called = False
        self.over = False

    @property
    def begun(self) -> bool:
        return self._tokens > 0

    @property
    def can_go_on(self) -> bool:
        """Whether another node could: neither behind a tool call, nor where a grammar would not know the
        beginning. A thought before it is free."""
        fixed = self._request.json_schema is not None or self._request.grammar is not None
        return not self.begun or not (self._called or (fixed and self._text))

    def rest(self, via: str) -> ChatRequest:
        """What is to be asked of the next node."""
        request = msgspec.structs.replace(self._request, via=via)
        self._before = self._tokens
        if not self.begun:
            return request
        sampling, limit = request.sampling, request.sampling.max_tokens
        if limit is not None:
            sampling = msgspec.structs.replace(sampling, max_tokens=max(1, limit - self._tokens))
        if request.prompt is not None:
            return msgspec.structs.replace(request, sampling=sampling, prompt=request.prompt + self._text)
        if request.thinking_budget is not None:
            budget = max(1, request.thinking_budget - self._thought)
            request = msgspec.structs.replace(request, thinking_budget=budget)
        return msgspec.structs.replace(request, sampling=sampling, so_far=SoFar(self._text, self._reasoning))

    def passed(self, delta: Delta) -> Delta:
        """Notes a delta on its way to the client; the last one's figures are of the whole answer."""
        match delta:
            case Text():
                self._text += delta.text
                self._tokens += 1
            case Reasoning():
                self._reasoning += delta.text
                self._thought += 1
                self._tokens += 1
            case ToolCall():
                self._called = True
                self._tokens += 1
            case Finished() if self._before:
                self.over = True
                usage = delta.usage
                return msgspec.structs.replace(
                    delta,
                    usage=msgspec.structs.replace(
                        usage,
                        prompt_tokens=max(0, usage.prompt_tokens - self._before),
                        completion_tokens=usage.completion_tokens + self._before,
                    ),
                )
            case Finished():
                self.over = True
        return delta
