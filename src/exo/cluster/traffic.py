"""What this node has under way on each of the others: fresher than what they say of themselves."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from exo.nodes import Node


class Traffic:
    """Counts requests by node. The state of a node counts those of ours that were on it when it came; of
    later ones it knows nothing. `peers` gives the states as they are now."""

    def __init__(self, peers: Callable[[], Sequence[Node]]) -> None:
        self._peers = peers
        self._sent: Counter[str] = Counter()
        self._states: dict[str, tuple[Node, int]] = {}

    @property
    def sent(self) -> Mapping[str, int]:
        """Requests under way on each node."""
        return self._sent

    @property
    def counted(self) -> Mapping[str, int]:
        """How many of them the latest state of each peer knows of."""
        self._note()
        return {id: count for id, (_, count) in self._states.items()}

    @contextmanager
    def on(self, node: str) -> Iterator[None]:
        """For as long as a request is on the node."""
        self._note()
        self._sent[node] += 1
        try:
            yield
        finally:
            self._note()
            self._sent[node] -= 1

    def _note(self) -> None:
        """Looks for states that have come since, before what is under way changes."""
        before, self._states = self._states, {}
        for peer in self._peers():
            known = before.get(peer.id)
            is_known = known is not None and known[0] is peer
            self._states[peer.id] = known if known and is_known else (peer, self._sent[peer.id])
