"""What "auto" means to the node that is asked: the models it chooses from, what each would cost now, and
which conversations were raised to reasoning. The choice itself is `exo.choice.auto`'s, and pure."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest
from exo.choice import auto, routing
from exo.choice.auto import Candidate, Pair, Picked, Raised, Wish
from exo.choice.routing import Asked, Route
from exo.choice.speeds import Known
from exo.errors import BadRequest, ExoError, ModelNotFound, NotReady, Overloaded
from exo.nodes import Cluster, Node
from exo.settings import AutoSettings
from exo.text.thoughts import opens_thoughts

log = logging.getLogger(__name__)

NAMES: Mapping[str, Wish] = {"auto": "", "auto:quick": "quick", "auto:reasoning": "reasoning"}
"""What is asked for in place of a model's id, and what is wished for by it."""

_ANSWER = 128
"""Tokens of an answer without thoughts, where a request sets no limit below."""


class Automatic:
    """Chooses for one node. `chosen` is told of each choice."""

    def __init__(
        self,
        settings: AutoSettings,
        chosen: Callable[[Picked], None] = lambda picked: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._chosen = chosen
        self._clock = clock
        self._raised = Raised(seconds=settings.sticky_seconds)

    def pair(self, cluster: Cluster) -> Pair | None:
        """The two models, of which the owner may have named either; None where there is none to choose."""
        named = self._settings
        if named.quick and named.reasoning:
            return Pair(named.quick, named.reasoning)
        cards = [card for node in (cluster.me, *cluster.peers) for card in node.cards if card.id not in NAMES]
        always = {card.id for card in cards if opens_thoughts(card.id)}
        found = auto.default_pair(cards, always=always)
        return found and Pair(named.quick or found.quick, named.reasoning or found.reasoning)

    def card(self, cluster: Cluster) -> ModelCard | None:
        """ "auto" as a model that clients can be shown, where there is something to choose."""
        if self.pair(cluster) is None:
            return None
        return ModelCard(id="auto", format="remote", context=0, bytes=0, memory=0, owned_by="exo")

    def choose(
        self, request: ChatRequest, cluster: Cluster, explain: Callable[[Asked], Sequence[Route]]
    ) -> Picked:
        """Which model answers a request for one of `NAMES`. Raises as `pick` does."""
        picked = self.pick(request, cluster, explain)
        if picked.kind == "reasoning":
            self._raised.remember(request, self._clock())
        log.info("request %s: %s: %s", request.id, picked.model, "; ".join(picked.why))
        self._chosen(picked)
        return picked

    def pick(
        self, request: ChatRequest, cluster: Cluster, explain: Callable[[Asked], Sequence[Route]]
    ) -> Picked:
        """Which model would answer. Raises `BadRequest` where neither can, `NotReady` where one could at
        another time, and `ModelNotFound` where there is none."""
        pair = self.pair(cluster)
        if pair is None:
            raise ModelNotFound(
                f"'{request.model}' chooses between models, and there is none here that chats", param="model"
            )
        nodes = (cluster.me, *cluster.peers)
        most = min(_ANSWER, request.sampling.max_tokens or _ANSWER)
        asked = msgspec.structs.replace(routing.asked(request), answer=most)
        known = Known(nodes)
        passing: list[ExoError] = []

        def candidate(model: str) -> Candidate:
            # One that always thinks cannot be told to; of others the card says.
            switch = False if opens_thoughts(model) else None
            try:
                route = explain(msgspec.structs.replace(asked, model=model))[0]
            except ExoError as error:
                if isinstance(error, NotReady | Overloaded):
                    passing.append(error)
                card = _card(model, nodes)
                return Candidate(card=card, able=False, why=error.message, switch=switch)
            speed, _ = known.speed(route.node, model, route.card.bytes)
            thought = known.thought(model)
            usual = {} if thought is None else {"usual": thought}
            thinking = auto.thinking_seconds(speed.decode, request.thinking_budget, **usual)
            return Candidate(card=route.card, seconds=route.seconds, thinking_seconds=thinking, switch=switch)

        raised = self._raised.holds(request, self._clock())
        wish = NAMES[request.model]
        quick, reasoning = candidate(pair.quick), candidate(pair.reasoning)
        try:
            return auto.pick(request, wish, quick, reasoning, raised=raised)
        except BadRequest as error:
            if not passing:
                raise
            raise NotReady(error.message, retry_after=passing[0].retry_after) from error


def _card(model: str, nodes: Sequence[Node]) -> ModelCard:
    """What some node says of the model, or that nothing is known of it."""
    unknown = ModelCard(id=model, format="remote", context=0, bytes=0, memory=0)
    return next((card for node in nodes for card in node.cards if card.id == model), unknown)
