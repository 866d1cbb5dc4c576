"""The rest of a model, as the worker with its first layers has it: links to the workers of the others.

A step goes to each of them in turn, and what the last one gives comes back here. Several may be on their way,
one of each slot.
"""

from collections.abc import Iterator

import msgspec

from exo.errors import ConnectionLost, EngineFailed
from exo.shards import frames
from exo.shards.frames import Done, Failed, Free, Hidden, Step
from exo.shards.link import Link


class Arrived(msgspec.Struct, frozen=True):
    """A step has been through all layers: what the last one gave for its last token."""

    id: int
    slot: int
    hidden: bytearray


class _Passing(msgspec.Struct):
    slot: int
    position: int
    stage: int = 0


class Rest:
    def __init__(self) -> None:
        self._links: list[Link] = []
        self._lost = False
        self._passing: dict[int, _Passing] = {}
        self._freeing: dict[int, int] = {}  # of how many links the answer is awaited

    def __bool__(self) -> bool:
        return bool(self._links) or self._lost

    def add(self, link: Link) -> None:
        self._links.append(link)

    def send(self, step: Step, hidden: memoryview) -> None:
        """Hidden states behind the first layers, on their way through the others. Raises `ConnectionLost`
        where one of the links is lost."""
        if self._lost:
            raise ConnectionLost("the connections between the layers' processes are lost")
        self._passing[step.id] = passing = _Passing(step.slot, step.position)
        self._pass_on(step.id, passing, hidden)

    def free(self, free: Free) -> bool:
        """Has the others free a slot, too. Whether an answer is still to come."""
        if not self._links:
            return False
        self._freeing[free.id] = len(self._links)
        for link in self._links:
            link.send(free)
        return True

    def take(self, link: Link, header: bytes, payload: bytearray) -> Iterator[Arrived | Done | Failed]:
        """What has come over a link, if it is the end of something. Raises `EngineFailed` for what nobody
        asked for there."""
        message = frames.decode_from_worker(header)
        match message:
            case Hidden(id) if passing := self._passing.get(id):
                passing.stage += 1
                if passing.stage < len(self._links):
                    self._pass_on(id, passing, memoryview(payload))
                else:
                    del self._passing[id]
                    yield Arrived(id, passing.slot, payload)
            case Failed(id=int(id)) if id in self._passing or id in self._freeing:
                self._passing.pop(id, None)
                self._freeing.pop(id, None)
                yield message
            case Done(id):
                # Of one that has failed in another place, no more is to be said.
                if id in self._freeing:
                    self._freeing[id] -= 1
                    if not self._freeing[id]:
                        del self._freeing[id]
                        yield message
            case _:
                raise EngineFailed(f"another worker says {type(message).__name__}, which nobody asked for")

    def lose(self, error: Exception) -> Iterator[Failed]:
        """One of the links is gone, and with it all that is under way."""
        self._lost = True
        self._links.clear()
        ids = [*self._passing, *self._freeing]
        self._passing.clear()
        self._freeing.clear()
        lost = ConnectionLost(f"a connection between the layers' processes has ended: {error}")
        for id in ids:
            yield Failed.of(lost, id)

    def _pass_on(self, id: int, passing: _Passing, hidden: memoryview) -> None:
        last = passing.stage == len(self._links) - 1
        step = Step(id=id, slot=passing.slot, position=passing.position, want="last" if last else "all")
        self._links[passing.stage].send(step, hidden)
