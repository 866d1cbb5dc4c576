"""The responses this node keeps, for conversations that go on from them: bounded, in memory, its own only.

Those unused for longest are forgotten first. A conversation's turns are shared by all of its responses, so
that a long one costs what its turns do and not their square; their bytes count once.
"""

from collections import OrderedDict

from exo.errors import NotFound
from exo.wire.responses import KeptResponse


class KeptResponses:
    """Up to `most` responses by id, of `most_bytes` of JSON together. They end with this program."""

    def __init__(self, *, most: int = 1000, most_bytes: int = 16 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        # How many responses have a turn, by the identity of its bytes: those live as long as they are here.
        self._users: dict[int, int] = {}
        self.bytes = 0
        """Of JSON, at the moment."""

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, name: str, response: KeptResponse) -> None:
        """Forgets as many others as that takes. One that there is no room for at all is not kept."""
        if len(response.answer) + sum(map(len, response.turns)) > self._most_bytes:
            return
        self._kept[name] = response
        self.bytes += len(response.answer)
        for turn in response.turns:
            users = self._users[id(turn)] = self._users.get(id(turn), 0) + 1
            self.bytes += len(turn) if users == 1 else 0
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            self.forget(next(iter(self._kept)))

    def get(self, name: str) -> KeptResponse:
        """The response, which is now the last to be forgotten. Raises `NotFound` for one that is not kept."""
        if name not in self._kept:
            raise self._missing(name)
        self._kept.move_to_end(name)
        return self._kept[name]

    def forget(self, name: str) -> None:
        """Raises `NotFound` as `get` does. Conversations that went on from it keep its turns."""
        response = self._kept.pop(name, None)
        if response is None:
            raise self._missing(name)
        self.bytes -= len(response.answer)
        for turn in response.turns:
            self._users[id(turn)] -= 1
            if not self._users[id(turn)]:
                del self._users[id(turn)]
                self.bytes -= len(turn)

    def _missing(self, name: str) -> NotFound:
        return NotFound(
            f"response '{name[:80]}' is not kept here: this node keeps the last {self._most} in at most "
            f"{self._most_bytes >> 20} MiB, none over a restart, and none of other nodes; send the whole "
            "conversation as input instead, with store: false"
        )
