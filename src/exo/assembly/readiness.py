"""Whether a node could serve a chat now, and what keeps it from that."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from exo.engine import Engine
from exo.errors import ExoError
from exo.http.upstream import Upstream
from exo.store.catalogue import Catalogue

log = logging.getLogger(__name__)


class Readiness:
    """Of a node with these models, engines and servers. It is not ready before it has loaded what it is to
    load at its start, nor before the other nodes that it waits for are there."""

    def __init__(self, shelf: Catalogue, engines: Sequence[Engine], upstreams: Sequence[Upstream]) -> None:
        self._shelf, self._engines, self._upstreams = shelf, engines, upstreams
        self._to_load: list[str] = []
        self.wait_for(0, lambda: 0)

    async def preload(self, models: Sequence[str], load: Callable[[str], Awaitable[None]]) -> None:
        """Loads them one after the other; one that fails is logged, and tried again when it is asked for."""
        self._to_load = list(models)
        while self._to_load:
            try:
                await load(self._to_load[0])
            except ExoError as error:
                log.error("preloading failed: %s", error.message)
            self._to_load.pop(0)

    def wait_for(self, peers: int, count: Callable[[], int]) -> None:
        """From now on this node is not ready before so many others are there."""
        self._peers_wanted, self._peers = peers, count

    def why_not(self) -> str | None:
        """Why no chat could be served now; None when one could."""
        if self._peers() < self._peers_wanted:
            return f"waiting for other nodes: {self._peers()} of {self._peers_wanted} are here"
        if self._to_load:
            return f"loading {self._to_load[0]}"
        reasons = [upstream.why_not_ready() for upstream in self._upstreams]
        formats = {card.format for card in self._shelf.cards}
        loading = [engine for engine in self._engines if formats & engine.formats]
        if loading:
            reasons += [engine.unavailable() for engine in loading]
        elif formats:
            reasons.append(f"no engine enabled on this node loads {' or '.join(sorted(formats))}")
        elif self._engines:
            reasons.append("there is no model on this node's disk")
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)
