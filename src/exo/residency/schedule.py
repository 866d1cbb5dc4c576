"""Whose turn it is, who may start, what is loaded and what is evicted. Pure.

Clients take turns (`Rounds`), and that order is kept strictly where it matters: once a request is met whose
model has to wait for memory, nobody behind it is started, or a busy model could keep its memory for ever. A
request that only waits for a slot, or for a load already under way, holds up nobody of another model.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

State: TypeAlias = Literal["loading", "ready", "leaving"]


class Rounds(msgspec.Struct, frozen=True):
    """Start-time fair queueing (Goyal, Vin, Cheng 1996) with requests of equal cost: a client's next request
    is due a round after its last one, and not before the round that is being served. So whoever sends
    many waits behind whoever sends few, and nobody waits for ever.

    `now` is the round being served; `due` is of those clients only that have had their turn in it.
    """

    now: int = 0
    due: Mapping[str, int] = {}

    def order(self, waiting: Sequence[str]) -> list[int]:
        """Positions in the order of their turns, for the clients `waiting` in order of arrival."""
        due = dict(self.due)
        rounds = []
        for position, client in enumerate(waiting):
            rounds.append((due.get(client, self.now), position))
            due[client] = rounds[-1][0] + 1
        return [position for _, position in sorted(rounds)]

    def served(self, client: str) -> "Rounds":
        """What is so once the client's turn has come."""
        now = self.due.get(client, self.now)
        due = {**self.due, client: now + 1}
        return Rounds(now, {client: round for client, round in due.items() if round > now})


class Resident(msgspec.Struct, frozen=True):
    """A model that holds memory. `used` grows with every use: the smallest is the least recent. Nobody has
    used it for `idle` seconds (None: it is in use), and it leaves in `expires_in` if nobody does; None is
    never."""

    memory: int
    state: State
    slots: int = 0
    running: int = 0
    used: int = 0
    expires_in: float | None = None
    idle: float | None = None


class Plan(msgspec.Struct, frozen=True):
    """What may happen now: positions in the queue that start, models to load, models to evict."""

    start: tuple[int, ...] = ()
    load: tuple[str, ...] = ()
    evict: tuple[str, ...] = ()


def plan(
    waiting: Sequence[str], residents: Mapping[str, Resident], sizes: Mapping[str, int], budget: int
) -> Plan:
    """Decides what happens next for the models `waiting` for, in the order of their turns.

    `sizes` gives the memory of each model waited for, `budget` what all residents together may take, in
    bytes. Never evicts a model that runs, is claimed by someone ahead in the queue, or is loading.
    """
    start: list[int] = []
    load: list[str] = []
    running = {model: resident.running for model, resident in residents.items()}
    claimed: set[str] = set()
    free = budget - sum(resident.memory for resident in residents.values())

    for position, model in enumerate(waiting):
        resident = residents.get(model)
        if resident is not None:
            claimed.add(model)
            if resident.state == "ready" and running[model] < resident.slots:
                running[model] += 1
                start.append(position)
        elif model in load:
            continue
        elif sizes[model] <= free:
            free -= sizes[model]
            load.append(model)
        else:
            idle = [m for m in residents if m not in claimed and running[m] == 0]
            evict = _victims(sizes[model] - free, {m: residents[m] for m in idle})
            return Plan(tuple(start), tuple(load), evict)
    return Plan(tuple(start), tuple(load))


def _victims(need: int, idle: Mapping[str, Resident]) -> tuple[str, ...]:
    """The least recently used of `idle` that free `need` bytes, counting what is leaving already."""
    need -= sum(resident.memory for resident in idle.values() if resident.state == "leaving")
    ready = sorted((r.used, model) for model, r in idle.items() if r.state == "ready")
    victims: list[str] = []
    for _, model in ready:
        if need <= 0:
            break
        victims.append(model)
        need -= idle[model].memory
    # Evicting some would not make the room: keep them all until a running one lets go of its memory.
    return tuple(victims) if need <= 0 else ()
