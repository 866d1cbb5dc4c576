"""Who is there: this node's part in its cluster.

Every node is a peer of all others: none is elected, none relays. (With routers, these relay, and it makes no
difference here but for how a session is opened.) Each carries a liveliness token and says
what it is, once a second and when something happened; `view.py` makes peers of what arrives, `session.py`
carries it. The session is opened anew in two cases, as nothing else helps:

- A node is heard but does not hear this one: expired leases can split two peers for good
  (eclipse-zenoh/zenoh#2806).
- This machine has an address it had not before (a cable, Wi-Fi, DHCP after the start), which an open
  session does not use.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from exo.cluster import discovery
from exo.cluster.network import Address, Place, addresses, place
from exo.cluster.session import Session
from exo.cluster.settings import ClusterSettings
from exo.cluster.states import OLDEST, PROTOCOL, State, StateCodec
from exo.cluster.view import PATIENCE, View
from exo.errors import BadRequest, ExoError, NotReady
from exo.nodes import Node

log = logging.getLogger(__name__)

# Seconds between two states, and at least between any two that are asked for: so many, and for each peer so
# many more, as each newcomer makes all of them say something to all.
_PERIOD, _PAUSE, _PAUSE_EACH = 1.0, 0.1, 0.01
# Seconds between two looks at what only time brings: states grow old, two processes have one id.
_TICK = 0.5
# Seconds between two looks at this machine's addresses, and at who does not hear this node.
_LOOK = 2.0
# Seconds after which a session that could not be opened, or a node that did not answer, is tried again. For
# a node they double, up to the second.
_RETRY, _MOST_RETRY = 5.0, 300.0
# Times that a session may fail to listen at a place that is free when it is looked at again.
_TRIES = 4
# Nodes that are said to be ignored; whoever makes up more ids does not fill the log.
_TOLD = 256


class _Acquaintance(msgspec.Struct):
    """A node that is to be connected to while the session is open: its Zenoh id once it has answered, how
    often it was tried since it was last connected, and when it is tried again."""

    zid: str | None = None
    tried: int = 0
    again: float = 0.0


def _ignore(peers: Sequence[Node]) -> None:
    pass


class Membership:
    """This node in its cluster, from `start` to `close`. `me` gives the node as it is now; `changed` is
    called on the loop with the peers whenever they, or what they say of themselves, changed."""

    def __init__(
        self,
        settings: ClusterSettings,
        me: Callable[[], Node],
        changed: Callable[[Sequence[Node]], None] = _ignore,
    ) -> None:
        if not settings.name:
            raise BadRequest("the cluster's name is empty")
        self._settings, self._me, self._changed = settings, me, changed
        self._id = me().id
        self._codec = StateCodec(settings.name, settings.secret)
        self._view = View(self._id, proof=settings.secret is not None)
        self._source = discovery.source(settings, self._id)
        self._routers = tuple(discovery.address(each, settings.port) for each in settings.routers)
        self._wanted: frozenset[str] = frozenset()  # addresses to connect to
        self._known: frozenset[str] = frozenset()  # those the session was opened with
        self._session: Session | None = None
        self._incarnation, self._sequence = "", 0
        self._place: Place | None = None
        self._addresses: frozenset[Address] = frozenset()  # this machine's
        self._peers: dict[str, Node] = {}
        self._telling: asyncio.Handle | None = None
        self._refused: set[tuple[str, type[ExoError]]] = set()
        self._due = asyncio.Event()
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        state = "closed" if self._session is None else f"on port {self.port}"
        return f"<Membership of {self._id!r} in {self._settings.name!r}, {state}, {len(self._peers)} peers>"

    @property
    def peers(self) -> tuple[Node, ...]:
        """The other nodes that are there, in order of their ids."""
        return tuple(self._peers.values())

    @property
    def port(self) -> int:
        """What is listened on: another than the settings say where that was taken, and 0 with routers."""
        return self._settings.port if self._place is None else self._place.port

    def announce(self) -> None:
        """This node changed: the others are told now, though not more than ten times a second."""
        self._due.set()

    async def start(self) -> None:
        """Begins to look and to be seen. Raises `NotReady` for what cannot be had: the port, a certificate,
        the file or program that names the others. Nothing is left open then. That no router answers is not
        raised, as they may be started later: this node is alone until one does."""
        self._wanted = await self._source.read()
        self._check_files()
        try:
            await self._open()
        except NotReady as error:
            if not self._routers:
                await self.close()
                raise
            self._spawn(self._keep_trying(error))
        except BaseException:
            await self.close()
            raise
        if self._settings.tls is None and self._settings.secret is None:
            log.warning(
                "cluster '%s' is open to everyone on this network: give its nodes a secret or certificates",
                self._settings.name,
            )
        for work in (self._beat(), self._guard(), self._follow()):
            self._spawn(work)

    async def close(self) -> None:
        """Leaves; the others see it at once. May be called again."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._opening:
            await self._shut()
        if self._telling is not None:
            self._telling.cancel()
        self._peers = {}

    # The session

    async def _open(self) -> None:
        """Opens a session, after closing the one there is."""
        async with self._opening:
            await self._shut()
            self._known, self._addresses = self._wanted, addresses()
            self._incarnation, self._sequence = secrets.token_hex(8), 0
            self._view.begin(self._incarnation)
            self._place = self._find_place()
            tries = 0
            while self._session is None:
                try:
                    await self._join(self._place)
                except NotReady:
                    before, self._place = self._place, self._find_place()
                    tries += before == self._place
                    if tries == _TRIES:
                        raise
                    # The port was free, and then somebody else was faster, or another node that is starting
                    # looked whether it is free just then.
        self.announce()

    async def _join(self, place: Place) -> None:
        joining = asyncio.ensure_future(asyncio.to_thread(self._joined, place, asyncio.get_running_loop()))
        try:
            self._session = await asyncio.shield(joining)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: the session it makes is kept, for `close` to find.
            with contextlib.suppress(NotReady):
                self._session = await joining
            raise

    def _joined(self, place: Place, loop: asyncio.AbstractEventLoop) -> Session:
        """In a thread."""
        known = self._routers or self._known
        session = Session(self._settings, place, known, loop, self._on_state, self._on_token)
        try:
            # Last: whoever sees it answers, and that has to be heard.
            session.appear(self._id, self._incarnation)
        except BaseException:
            session.close()
            raise
        return session

    async def _shut(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await asyncio.shield(asyncio.to_thread(session.close))

    async def _reopen(self, reason: str) -> None:
        log.warning("%s; joining the cluster anew", reason)
        try:
            await self._open()
        except NotReady as error:
            await self._keep_trying(error)

    async def _keep_trying(self, error: NotReady) -> None:
        """Opens a session, which has just failed, however long that takes."""
        while self._session is None:
            log.warning("%s; trying again in %g s", error.message, _RETRY)
            await asyncio.sleep(_RETRY)
            try:
                await self._open()
            except NotReady as again:
                error = again

    def _find_place(self) -> Place:
        if self._routers:
            return Place((), 0)
        wanted, before = self._settings.port, self.port
        # Those who connect to this node by its address find it where it was, if it cannot be as it should.
        found = place(dict.fromkeys((wanted or before, before, 0)), self._addresses)
        if wanted not in (0, found.port) and found.port != before:
            log.warning("port %d is taken: this node is at port %d of its cluster", wanted, found.port)
        return found

    def _check_files(self) -> None:
        tls = self._settings.tls
        for path in () if tls is None else (tls.ca, tls.certificate, tls.key):
            try:
                path.read_bytes()
            except OSError as error:
                raise NotReady(f"a certificate of the cluster, {path}: {error.strerror}") from error

    # What arrives

    def _on_state(self, sender: str, payload: bytes) -> None:
        try:
            state = self._codec.decode(payload)
            if state.node.id != sender:
                raise BadRequest(f"its state is that of {state.node.id!r}")
        except ExoError as error:
            self._refuse(sender, error)
            return
        known = self._view.is_heard(sender, self._now())
        if self._view.heard(state, self._now()):
            if not known:
                self.announce()  # that it is heard
            if state.node != self._peers.get(sender):
                self._tell_soon()

    def _on_token(self, id: str, incarnation: str, there: bool) -> None:
        if not there:
            self._view.vanished(id, incarnation)
        elif self._view.appeared(id, incarnation):
            self.announce()  # a newcomer is not kept waiting
        self._tell_soon()

    def _refuse(self, sender: str, error: ExoError) -> None:
        told = (sender, type(error))
        if told not in self._refused and len(self._refused) < _TOLD:
            self._refused.add(told)
            log.warning("node '%s' is ignored: %s", sender, error.message)

    def _tell_soon(self) -> None:
        """Once for all that has come meanwhile, as all peers are looked at."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        peers = {node.id: node for node in self._view.peers(self._now())}
        if peers == self._peers:
            return
        if peers.keys() != self._peers.keys():
            log.info("cluster '%s': %s", self._settings.name, ", ".join(sorted({*peers, self._id})))
        self._peers = peers
        self._changed(self.peers)

    # What goes on all the time

    async def _beat(self) -> None:
        """Says what this node is, and notices what only time brings."""
        published = -_PERIOD
        while True:
            now = self._now()
            if self._due.is_set() or now >= published + _PERIOD:
                self._due.clear()
                published = now
                self._publish()
            self._view.forget(now)
            self._tell()
            for id in self._view.doubles(now):
                log.error("two processes are node '%s'; one of them needs another id", id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_TICK, published + _PERIOD - now)):
                    await self._due.wait()
                await asyncio.sleep(published + _PAUSE + len(self._peers) * _PAUSE_EACH - self._now())

    def _publish(self) -> None:
        if self._session is None:
            return
        self._sequence += 1
        state = State(
            incarnation=self._incarnation,
            sequence=self._sequence,
            hears=self._view.hears(self._now()),
            node=self._me(),
            protocol=PROTOCOL,
            oldest=OLDEST,
        )
        self._session.publish(self._id, self._codec.encode(state))

    async def _guard(self) -> None:
        """Opens the session anew where Zenoh would not find its way back. Addresses of IPv6 are no reason:
        some machines have new ones every day."""
        while True:
            await asyncio.sleep(_LOOK)
            if new := {each for each in addresses() - self._addresses if each.version == 4}:
                await self._reopen(f"this machine has a new address, {next(iter(new))}")
            elif deaf := self._view.deaf(self._now()):
                await self._reopen(f"node '{deaf}' has not heard this one for {PATIENCE:g} s")

    async def _follow(self) -> None:
        """Gets connected to nodes whose addresses came after the session was opened."""
        acquaintances: dict[str, _Acquaintance] = {}
        while True:
            await asyncio.sleep(min(self._source.interval, _RETRY))
            self._wanted = await self._source.read()
            acquaintances = {
                each: acquaintances.get(each) or _Acquaintance() for each in self._wanted - self._known
            }
            for address, acquaintance in acquaintances.items():
                await self._meet(address, acquaintance)

    async def _meet(self, address: str, acquaintance: _Acquaintance) -> None:
        session = self._session
        if session is None or acquaintance.zid in session.connected:
            acquaintance.tried = 0
            return
        if self._now() < acquaintance.again:
            return
        acquaintance.again = self._now() + min(_RETRY * 2**acquaintance.tried, _MOST_RETRY)
        acquaintance.tried = min(acquaintance.tried + 1, 16)
        acquaintance.zid = await asyncio.to_thread(session.introduce, address)
        if acquaintance.zid is not None and acquaintance.zid not in session.connected:
            await self._reopen(f"the node at {address} can be reached in no other way")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.critical("a defect in the membership of '%s'", self._settings.name, exc_info=error)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
