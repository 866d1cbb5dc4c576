"""The accounts of all clients that have limits, in bounded memory."""

import time
from collections.abc import Callable
from typing import NamedTuple

from exo.admission import rates
from exo.admission.rates import Account, Limits, Refusal, Standing

# Where it is full, emptied accounts are looked for so often at most.
_PAUSE = 1.0
_NEW = Account()
_OTHERS = "\0others"


class _Entry(NamedTuple):
    account: Account
    empty_at: float


class Limiter:
    """Keeps what each client has asked and had.

    Of `most` clients. One whose account has leaked empty is forgotten when its place is needed, as nothing is
    lost by that. Where there are more at once, all further ones share one account: so whoever comes from
    thousands of addresses gets no more by that, and those who were there before lose nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = 4096) -> None:
        self._clock, self._most = clock, most
        self._entries: dict[str, _Entry] = {}
        self._swept = -_PAUSE

    def __len__(self) -> int:
        return len(self._entries)

    def ask(self, who: str, limits: Limits) -> Refusal | None:
        """Counts a request, or says why it has to wait; then it counts nothing."""
        now, who = self._clock(), self._place(who, limits)
        account = self._account(who)
        if refused := rates.refusal(limits, account, now):
            return refused
        self._keep(who, limits, rates.asked(limits, account, now))
        return None

    def answered(self, who: str, limits: Limits, tokens: int) -> None:
        """Counts the tokens of an answer that has ended."""
        now, who = self._clock(), self._place(who, limits)
        self._keep(who, limits, rates.answered(limits, self._account(who), now, tokens))

    def standing(self, who: str, limits: Limits) -> tuple[Standing, ...]:
        return rates.standing(limits, self._account(self._place(who, limits)), self._clock())

    def _account(self, who: str) -> Account:
        """One that comes when there is room again may have been one of the others: he begins as they are."""
        entry = self._entries.get(who) or self._entries.get(_OTHERS)
        return entry.account if entry else _NEW

    def _keep(self, who: str, limits: Limits, account: Account) -> None:
        if account != _NEW:
            self._entries[who] = _Entry(account, rates.empty_at(limits, account))

    def _place(self, who: str, limits: Limits) -> str:
        """The account to count in: one's own, or that of all others."""
        if who in self._entries or len(self._entries) < self._most or limits == Limits():
            return who
        now = self._clock()
        if now - self._swept >= _PAUSE:
            self._swept = now
            self._entries = {name: each for name, each in self._entries.items() if each.empty_at > now}
        return who if len(self._entries) < self._most else _OTHERS
