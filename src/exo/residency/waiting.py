"""The requests that wait on a node, and whose turn it is."""

import asyncio
from collections import Counter
from collections.abc import Mapping

from exo.engine import LoadedModel
from exo.errors import ExoError
from exo.residency.schedule import Rounds


class Ticket:
    """A request's place in the queue; `turn` resolves to its model when it may start."""

    def __init__(self, model: str, client: str, now: float) -> None:
        self.model = model
        self.client = client
        self.since = now
        self.turn: asyncio.Future[LoadedModel] = asyncio.get_running_loop().create_future()

    def fail(self, error: ExoError) -> None:
        if not self.turn.done():
            self.turn.set_exception(error)


class Queue:
    """Holds `most` requests, and one more for each client that has none in it.

    It is only told who comes and goes: how many that is now, and who starts, is its owner's to see to.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tickets: list[Ticket] = []
        self._rounds = Rounds()
        self._mean_seconds = 1.0

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def models(self) -> Mapping[str, int]:
        """How many requests wait for each model that is waited for."""
        return Counter(ticket.model for ticket in self._tickets)

    def room(self, client: str) -> int:
        """How many may wait when the client sends one more, that one included."""
        return self._most + (client not in {ticket.client for ticket in self._tickets})

    def join(self, model: str, client: str) -> Ticket:
        """A new request, behind all others."""
        ticket = Ticket(model, client, asyncio.get_running_loop().time())
        self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> bool:
        """Takes it out; whether it was waiting."""
        if ticket not in self._tickets:
            return False
        self._tickets.remove(ticket)
        return True

    def due(self) -> list[Ticket]:
        """All that wait, in the order of their turns."""
        # Cancelling a waiter cancels its future at once, some time before the waiter itself leaves.
        self._tickets = [ticket for ticket in self._tickets if not ticket.turn.cancelled()]
        turns = self._rounds.order([ticket.client for ticket in self._tickets])
        return [self._tickets[position] for position in turns]

    def start(self, ticket: Ticket, model: LoadedModel) -> None:
        """The request's turn has come."""
        self._tickets.remove(ticket)
        self._rounds = self._rounds.served(ticket.client)
        ticket.turn.set_result(model)

    def refuse(self, error: ExoError, model: str | None = None) -> None:
        """Everyone who waits for the model, or for any, fails."""
        refused = [ticket for ticket in self._tickets if model in (None, ticket.model)]
        self._tickets = [ticket for ticket in self._tickets if model not in (None, ticket.model)]
        for ticket in refused:
            ticket.fail(error)

    def answered(self, seconds: float) -> None:
        """Learns how long an answer took, its wait not among it."""
        self._mean_seconds += 0.2 * (seconds - self._mean_seconds)

    def expected_wait(self, slots: int) -> float:
        """Seconds until so many slots have got through those that wait now; a second at least."""
        return max(1.0, len(self._tickets) * self._mean_seconds / (slots or 1))
