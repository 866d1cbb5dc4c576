"""A node's Zenoh session. The one file that knows Zenoh; all was measured with release 1.10.2.

Whatever opens or closes a session blocks, so it is called in a thread. Zenoh's callbacks come on threads of
its own, and do nothing but hand over to the loop.

An open session takes no further addresses: Zenoh refuses to update `connect/endpoints`. So a node that has
to be connected to later is introduced: a second session connects to both for a moment, and by gossip they
learn of each other. No peer is lost meanwhile, as one would be by opening the session anew.
"""

import asyncio
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from exo.cluster import configuration
from exo.cluster.network import Place
from exo.cluster.settings import ClusterSettings
from exo.errors import NotReady

if TYPE_CHECKING:
    import zenoh

log = logging.getLogger(__name__)

# Seconds in which the nodes that are there answer a newcomer.
_SCOUTING = 0.2
# Seconds that two nodes which are introduced get to make a link.
_INTRODUCTION = 2.0


class Router:
    """Relays between the nodes that are its clients, those of the routers at `addresses`, and so on. It is no
    node, believes nobody and needs no secret. Opening and closing block. Raises `NotReady` where the
    settings' port or a certificate cannot be had; a router that does not answer is tried again."""

    def __init__(self, settings: ClusterSettings, addresses: Iterable[str]) -> None:
        zenoh = _zenoh()
        try:
            self._session = zenoh.open(_config(configuration.router(settings, addresses)))
        except zenoh.ZError as error:
            raise NotReady(f"a router cannot listen on port {settings.port}: {_words(error)}") from error

    def close(self) -> None:
        self._session.close()


class Session:
    """Listens at `place`, connects to `addresses` and whoever it finds; unseen until `appear`. With routers,
    their addresses are given.

    Blocks. Raises `NotReady` where it cannot be opened. What comes is handed over to the loop until `close`:
    to `on_state` a node's id and its state's bytes, to `on_token` a node's id, its incarnation, and whether
    it came or went.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        place: Place,
        addresses: Iterable[str],
        loop: asyncio.AbstractEventLoop,
        on_state: Callable[[str, bytes], None],
        on_token: Callable[[str, str, bool], None],
    ) -> None:
        zenoh = _zenoh()
        self._settings, self._place = settings, place
        self._on_state, self._on_token = on_state, on_token
        self._root = f"exo/{_chunk(settings.name)}"
        self._loop = loop
        self._closed, self._handing = False, threading.Lock()
        try:
            zid = configuration.newcomer(_there(place) if settings.discovery == "udp" else ())
            values = configuration.session(settings, place, addresses, zid)
            self._session = zenoh.open(_config(values))
        except zenoh.ZError as error:
            how = f"by {' or '.join(settings.routers)}" if settings.routers else f"on port {place.port}"
            raise NotReady(f"the cluster cannot be joined {how}: {_words(error)}") from error
        self._session.declare_subscriber(
            f"{self._root}/state/*",
            lambda sample: self._hand_over(self._state_came, sample),
            allowed_origin=zenoh.Locality.REMOTE,
        )
        self._session.liveliness().declare_subscriber(
            f"{self._root}/alive/*/*",
            lambda sample: self._hand_over(self._token_came, sample),
            history=True,
        )
        # Kept: a token ends with the object that stands for it, as a subscriber with a callback does not.
        self._token: Any = None

    def appear(self, id: str, incarnation: str) -> None:
        """The token: the others see this node, and when it is gone."""
        key = f"{self._root}/alive/{_chunk(id)}/{incarnation}"
        self._token = self._session.liveliness().declare_token(key)

    def publish(self, id: str, state: bytes) -> None:
        """To whoever is connected now. Does not block: where a link is full, the state is dropped."""
        zenoh = _zenoh()
        self._session.put(
            f"{self._root}/state/{_chunk(id)}",
            state,
            congestion_control=zenoh.CongestionControl.DROP,
            # A message of its own on each link. Routers, which send many to each client at once, gather them:
            # a link's queue has room for few messages, and what finds it full is dropped.
            express=not self._settings.routers,
        )

    @property
    def connected(self) -> set[str]:
        """Zenoh ids of those this session is connected to."""
        return _connected(self._session)

    def introduce(self, address: str) -> str | None:
        """Makes who listens at an address and this session know each other. Blocks for up to some seconds.

        The Zenoh id found there, None if nobody answers. It may answer and yet not be `connected`, where an
        address is translated on the way: it can only be reached there, and gossip does not know that.
        """
        zenoh = _zenoh()
        values = configuration.introduction(self._settings, (self._place.endpoints[0], address))
        try:
            between = zenoh.open(_config(values))
        except zenoh.ZError as error:
            log.warning("the node at %s cannot be connected to: %s", address, error)
            return None
        try:
            deadline = time.monotonic() + _INTRODUCTION
            found: set[str] = set()
            while not (self._closed or found & self.connected or time.monotonic() > deadline):
                time.sleep(0.05)
                found = _connected(between) - {str(self._session.zid())}
            return min(found, default=None)
        finally:
            between.close()

    def close(self) -> None:
        """The others see it at once, and nothing is handed over any more. Blocks for as long as links are
        being made to where nobody answers: `_OPENING` in configuration.py."""
        with self._handing:
            self._closed = True
        if self._token is not None:
            self._token.undeclare()
        self._session.close()

    def _hand_over(self, take: "Callable[[zenoh.Sample], None]", sample: "zenoh.Sample") -> None:
        """On a thread of Zenoh, which may still be at it once the session and the loop are closed."""
        with self._handing:
            if not self._closed:
                self._loop.call_soon_threadsafe(take, sample)

    def _state_came(self, sample: "zenoh.Sample") -> None:
        if not self._closed:
            self._on_state(unquote(str(sample.key_expr).rpartition("/")[2]), sample.payload.to_bytes())

    def _token_came(self, sample: "zenoh.Sample") -> None:
        if not self._closed:
            id, incarnation = (unquote(part) for part in str(sample.key_expr).split("/")[-2:])
            self._on_token(id, incarnation, sample.kind != _zenoh().SampleKind.DELETE)


def _zenoh() -> Any:
    """Imported when a cluster is joined, not before: it takes memory."""
    os.environ.setdefault("ZENOH_RUNTIME", configuration.RUNTIME)
    import zenoh

    return zenoh


def _words(error: Exception) -> str:
    """Zenoh's, without the lines of its source."""
    return re.sub(r"\s+at /\S+:\d+\.", "", str(error))


def _config(values: Mapping[str, object]) -> "zenoh.Config":
    config: zenoh.Config = _zenoh().Config()
    for key, value in values.items():
        config.insert_json5(key, json.dumps(value))
    return config


def _there(place: Place) -> list[int]:
    """The Zenoh ids of those who answer a multicast."""
    found: list[int] = []
    scout = _zenoh().scout(
        lambda hello: found.append(int(str(hello.zid), 16)),
        what="peer",
        config=_config(configuration.scouting(place)),
    )
    time.sleep(_SCOUTING)
    scout.stop()
    return found


def _connected(session: "zenoh.Session") -> set[str]:
    return {str(zid) for zid in session.info.peers_zid()}


def _chunk(text: str) -> str:
    """One part of a Zenoh key: without its separators and wildcards."""
    return quote(text, safe="")
