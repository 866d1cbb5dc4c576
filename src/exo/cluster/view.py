"""Who is there, from tokens and states. Without I/O. Every `now` is in seconds of one monotonic clock.

A node lives in incarnations: each session it opens has a random one. A token stands for an incarnation as
long as its session is connected, a state says what the node is. A node is a peer while both are there:
the token makes a death seen at once, the state's age one whose process only hangs. A late message of a
former life has no token any more, and a repeated one has an old sequence number, so neither brings
anybody back.

With `proof` (states are signed) a node must also say that it hears this one, by an incarnation made in
this process. A state recorded in an earlier life of this process cannot say that.
"""

from collections.abc import Iterator

import msgspec

from exo.cluster.states import State
from exo.nodes import Node

TIME_TO_LIVE = 3.5
"""Seconds after which a state is too old to be believed."""
PATIENCE = 15.0
"""Seconds for which a node may be heard without saying that it hears this one."""
_MOST_PATIENCE = 600.0
# Former incarnations of a node whose sequence numbers are remembered.
_REMEMBERED = 64


class _Life:
    """One incarnation of a node."""

    def __init__(self) -> None:
        self.token = False
        self.confirmed = False  # the token has been seen in the present session
        self.state: State | None = None
        self.sequence = -1  # of the last state that counted; stays when the state itself is dropped
        self.since = 0.0  # its first state
        self.at = 0.0  # its last one

    def fresh(self, now: float) -> bool:
        return self.state is not None and now - self.at < TIME_TO_LIVE


class _Doubt(msgspec.Struct):
    """A node that does not say it hears this one: since when, and how long that is borne."""

    patience: float
    since: float | None = None


class View:
    """What node `me` knows of the others."""

    def __init__(self, me: str, *, proof: bool = False) -> None:
        self._me, self._proof = me, proof
        self._mine: set[str] = set()
        self._lives: dict[str, dict[str, _Life]] = {}
        self._doubts: dict[str, _Doubt] = {}
        self._doubles: set[str] = set()

    def begin(self, incarnation: str) -> None:
        """A new session of this node: what was seen in the last one holds until it is too old."""
        self._mine.add(incarnation)
        for life in self._each():
            life.confirmed = False
        for doubt in self._doubts.values():
            doubt.since = None

    def appeared(self, id: str, incarnation: str) -> bool:
        """A token was seen. Says whether that is news: the newcomer is to be told of this node."""
        if incarnation in self._mine:
            return False
        life = self._life(id, incarnation)
        news = not life.confirmed
        life.token = life.confirmed = True
        return news

    def vanished(self, id: str, incarnation: str) -> None:
        """A token is gone, and its node with it."""
        life = self._lives.get(id, {}).get(incarnation)
        if life is not None:
            # The sequence number stays: nothing older may ever count.
            life.token = life.confirmed = False

    def heard(self, state: State, now: float) -> bool:
        """A state came. Says whether it counts, and does not only repeat what came before."""
        if state.incarnation in self._mine:
            return False
        life = self._life(state.node.id, state.incarnation)
        if state.sequence <= life.sequence:
            return False
        if not life.fresh(now):
            life.since = now
        life.state, life.sequence, life.at = state, state.sequence, now
        if state.node.id != self._me:
            self._weigh(state, now)
        return True

    def peers(self, now: float) -> tuple[Node, ...]:
        """The nodes that are there, without this one, in order of their ids."""
        found = (state.node for state in self._present(now) if self._proven(state))
        return tuple(sorted(found, key=lambda node: node.id))

    def hears(self, now: float) -> dict[str, str]:
        """Whose states are here: what this node's own state says of it."""
        return {state.node.id: state.incarnation for state in self._present(now)}

    def is_heard(self, id: str, now: float) -> bool:
        """Whether a node is among those that `hears` gives."""
        return self._state(id, now) is not None

    def forget(self, now: float) -> None:
        """Drops what can be of no use any more."""
        for id, lives in list(self._lives.items()):
            for life in lives.values():
                if not life.fresh(now):
                    life.state = None
                    if not life.confirmed:
                        life.token = False  # it went while this node had no session
            over = [name for name, life in lives.items() if not life.token and life.state is None]
            known = [name for name in over if lives[name].sequence >= 0]
            for name in over:
                if name not in known[-_REMEMBERED:]:
                    del lives[name]
            if not lives:
                del self._lives[id]
                self._doubts.pop(id, None)

    def doubles(self, now: float) -> list[str]:
        """Ids that two processes have had for longer than an old state lives, each pair told once."""
        told = []
        for id, lives in self._lives.items():
            alive = [name for name, life in lives.items() if life.token and self._lasting(life, now)]
            key = " ".join(sorted(alive))
            if len(alive) + (id == self._me) > 1 and key not in self._doubles:
                self._doubles.add(key)
                told.append(id)
        return told

    def deaf(self, now: float) -> str | None:
        """A node that is heard but has not said for `PATIENCE` that it hears this one, where there is one.
        After each time it is told, the patience with that node doubles until it hears this one."""
        for state in self._present(now):
            id, doubt = state.node.id, self._doubts.get(state.node.id)
            if doubt is None or doubt.since is None or self._me in state.hears:
                continue
            if now - doubt.since >= doubt.patience:
                doubt.since = None
                doubt.patience = min(2 * doubt.patience, _MOST_PATIENCE)
                return id
        return None

    # Details

    def _each(self) -> list[_Life]:
        return [life for lives in self._lives.values() for life in lives.values()]

    def _life(self, id: str, incarnation: str) -> _Life:
        return self._lives.setdefault(id, {}).setdefault(incarnation, _Life())

    def _state(self, id: str, now: float) -> State | None:
        """What a node says, if it is there. Of processes with the same id, every node sees the same one."""
        lives = self._lives.get(id, {})
        alive = [name for name, life in lives.items() if life.token and life.fresh(now)]
        return lives[min(alive)].state if alive and id != self._me else None

    def _present(self, now: float) -> Iterator[State]:
        return (state for id in self._lives if (state := self._state(id, now)) is not None)

    def _proven(self, state: State) -> bool:
        return not self._proof or state.hears.get(self._me) in self._mine

    def _lasting(self, life: _Life, now: float) -> bool:
        return life.fresh(now) and life.at - life.since >= TIME_TO_LIVE

    def _weigh(self, state: State, now: float) -> None:
        doubt = self._doubts.setdefault(state.node.id, _Doubt(PATIENCE))
        if self._me in state.hears:
            doubt.since, doubt.patience = None, PATIENCE
        elif doubt.since is None:
            doubt.since = now
