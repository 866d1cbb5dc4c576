"""API keys: what a node knows of each, which is never the key itself.

A key is 256 random bits, so nobody finds it by trying, and a hash that is slow on purpose, as passwords need
one, would guard nothing more and cost a board a tenth of a second with each request. SHA-256 takes
microseconds. What a client sends is hashed first and then compared with every key's hash, each in constant
time, so neither the keys nor which of them it was can be told by a clock.
"""

import datetime
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Annotated, TypeAlias

import msgspec

from exo.admission.rates import Limits

PREFIX = "exo-"
"""Tells people and programs that look for leaked secrets what it is."""

OWN = "EXO_API_KEY"
"""The name of the key that the node's own settings have. It is an owner's, and has no limits."""

MOST = 256
"""So many keys a node has at most: each is compared with every request, and is a label of metrics."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_BITS = 256

PerMinute: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=10**9)]


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is kept of a key: its name and its hash in hexadecimal digits, never itself. An `owner`'s may
    change what is on the machine. None is no limit."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    owner: bool = False
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    created: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute)


def new_key() -> str:
    """A key that nobody has: `exo-` and 43 characters that need no quoting in a shell or a URL."""
    return PREFIX + secrets.token_urlsafe(_BITS // 8)


def digest(key: str) -> str:
    """The hash that is kept of a key. What comes from a header need not be valid text."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def own_key(key: str) -> Key:
    """That of the node's own settings."""
    return Key(name=OWN, sha256=digest(key), owner=True)


def match(keys: Iterable[Key], given: str) -> Key | None:
    """The key that was given, None where it is none of them. All are compared, whichever it is."""
    hashed, found = digest(given), None
    for key in keys:
        if hmac.compare_digest(key.sha256, hashed):
            found = key
    return found
