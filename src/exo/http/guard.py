"""Who may ask this node, how much in a minute, and what is counted of it by key.

A request counts where it enters, and on no hop: whoever passes one on for a client has counted it. What only
reads counts nowhere, as pages and monitors do so all the time and no model works for it.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from aiohttp import web

from exo.admission.keyring import Keyring
from exo.admission.keys import Key, match
from exo.admission.limiter import Limiter
from exo.admission.rates import Limits, Refusal
from exo.chat import Usage
from exo.errors import RateLimited, Unauthorized
from exo.metrics import Metrics
from exo.metrics.registry import KeyStatus

Clock: TypeAlias = Callable[[], float]


class Asker(NamedTuple):
    """Who sent a request that counts. `key` is None where the node asks for none, and then `who` is an
    address."""

    key: Key | None
    who: str
    limits: Limits


KEY = web.RequestKey("key", Key)
"""The key that a request came with, where the node asks for one."""

ASKER = web.RequestKey("asker", Asker)
"""Is set of a request that counts."""

SPENT = web.RequestKey("spent", Usage)
"""The tokens that an answer has taken."""

EXPOSED = tuple(
    f"x-ratelimit-{figure}-{what}"
    for what in ("requests", "tokens")
    for figure in ("limit", "remaining", "reset")
)
"""Headers by which a client knows how it stands, as OpenAI's API has them."""


class Guard:
    """`keys` are those that requests need; where they need none, each address has the limits `open`."""

    def __init__(self, keys: Keyring, open: Limits, metrics: Metrics, clock: Clock = time.monotonic) -> None:
        self._keys, self._open, self._metrics = keys, open, metrics
        # Apart, so that addresses without end take no key its place.
        self._by_key, self._by_address = Limiter(clock), Limiter(clock)
        self._known: Sequence[Key] | None = None
        self._now()

    @property
    def asks(self) -> bool:
        """Whether a request needs a key."""
        return self._now() is not None

    @property
    def limits_addresses(self) -> bool:
        """Whether those who come without a key have limits."""
        return self._open != Limits()

    def key(self, given: Sequence[str]) -> Key | None:
        """The first of those given that is one of the node's; None where it asks for none. Raises
        `Unauthorized`."""
        keys = self._now()
        if keys is None:
            return None
        for each in filter(None, given):
            if found := match(keys, each):
                return found
        if any(given):
            raise Unauthorized(
                "this node wants its key, and does not know the one that came with this request; "
                "`exo key list` on its machine shows their names"
            )
        raise Unauthorized("this node wants its key: send 'Authorization: Bearer KEY'")

    def asker(self, key: Key | None, address: str) -> Asker:
        if key is None:
            return Asker(None, address.removeprefix("::ffff:"), self._open)
        # One that is made anew under an old name begins anew.
        return Asker(key, key.sha256, key.limits)

    def let_in(self, asker: Asker) -> None:
        """Counts the request. Raises `RateLimited` where it has to wait."""
        if refused := self._limiter(asker).ask(asker.who, asker.limits):
            raise RateLimited(_why(asker, refused), retry_after=math.ceil(refused.seconds))

    def left(self, asker: Asker, status: KeyStatus, spent: Usage) -> None:
        """Counts what came of it, which may be long after it was let in."""
        tokens = spent.prompt_tokens + spent.completion_tokens
        if tokens:
            self._limiter(asker).answered(asker.who, asker.limits, tokens)
        if asker.key:
            self._metrics.asked_with(asker.key.name, status, spent)

    def headers(self, asker: Asker) -> Mapping[str, str]:
        """How the client stands, for each limit it has."""
        headers = {}
        for each in self._limiter(asker).standing(asker.who, asker.limits):
            headers[f"x-ratelimit-limit-{each.what}"] = str(each.per_minute)
            headers[f"x-ratelimit-remaining-{each.what}"] = str(each.remaining)
            headers[f"x-ratelimit-reset-{each.what}"] = duration(each.reset)
        return headers

    def _limiter(self, asker: Asker) -> Limiter:
        return self._by_key if asker.key else self._by_address

    def _now(self) -> Sequence[Key] | None:
        keys = self._keys()
        if keys is not self._known:
            self._known = keys
            for key in keys or ():
                self._metrics.key_label(key.name)
        return keys


def duration(seconds: float) -> str:
    """As OpenAI's headers have it, which is how Go writes a duration: "12ms", "8.64s", "6m0s", "1h0m0s".

    Rounded up, so that whoever waits as long has not waited in vain.
    """
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    words = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{words}"
    return f"{minutes}m{words}" if minutes else words


def _why(asker: Asker, refused: Refusal) -> str:
    who = f"the key '{asker.key.name}'" if asker.key else asker.who
    what = refused.what.removesuffix("s") if refused.per_minute == 1 else refused.what
    allowed = f"{refused.per_minute} {what} a minute"
    had = f"may send {allowed}" if refused.what == "requests" else f"has had its {allowed}"
    return f"{who} {had}; the next one is served in {math.ceil(refused.seconds)} s"
