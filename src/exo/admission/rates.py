"""How much may be asked in a minute. All pure; times are seconds of one clock that never goes back.

A limit is a leaky bucket: what is asked goes in, and it leaks at the limit's pace. So whoever has been silent
may have a whole minute's worth at once, and after that as much as leaks. Kept is what is in it, so a bucket
that has leaked empty is the same as none at all, and one whose limit is changed stays true.

Requests go in when they come, tokens when an answer ends, as before nobody knows how many they are. The last
answer may so be more than there was room for; then the next request waits until that has leaked, too.
"""

from typing import Literal

import msgspec

_MINUTE = 60.0
# Of a request: what the rounding of times may lack, so that whoever waits as long as told is let in.
_ROUNDING = 1e-6


class Limits(msgspec.Struct, frozen=True):
    """What one client may have in a minute; None is no limit."""

    requests: int | None = None
    tokens: int | None = None


class Bucket(msgspec.Struct, frozen=True):
    """So much was in it at that moment."""

    held: float = 0.0
    at: float = 0.0


class Account(msgspec.Struct, frozen=True):
    """What one client has asked and had."""

    requests: Bucket = Bucket()
    tokens: Bucket = Bucket()


class Refusal(msgspec.Struct, frozen=True):
    """Which limit has been reached, and the seconds until there is room for one more."""

    what: Literal["requests", "tokens"]
    per_minute: int
    seconds: float


class Standing(msgspec.Struct, frozen=True):
    """Of one limit: what is left of it now, and the seconds until all of it is there again."""

    what: Literal["requests", "tokens"]
    per_minute: int
    remaining: int
    reset: float


def refusal(limits: Limits, account: Account, now: float) -> Refusal | None:
    """Why a request has to wait, for the longer time where both limits have been reached; None where it need
    not."""
    found = [
        Refusal(each.what, each.per_minute, (1 - room) * _MINUTE / each.per_minute)
        for each, room in _standings(limits, account, now)
        if room < 1 - _ROUNDING
    ]
    return max(found, key=lambda each: each.seconds, default=None)


def asked(limits: Limits, account: Account, now: float) -> Account:
    """The account once a request is let in."""
    if limits.requests is None:
        return account
    return Account(_filled(account.requests, limits.requests, now, 1), account.tokens)


def answered(limits: Limits, account: Account, now: float, tokens: int) -> Account:
    """The account once an answer has ended that took so many tokens, those of its prompt included."""
    if limits.tokens is None:
        return account
    return Account(account.requests, _filled(account.tokens, limits.tokens, now, tokens))


def standing(limits: Limits, account: Account, now: float) -> tuple[Standing, ...]:
    """How the client stands, for each limit that there is."""
    return tuple(each for each, _ in _standings(limits, account, now))


def empty_at(limits: Limits, account: Account) -> float:
    """The moment from which the account is as good as a new one."""
    both = ((account.requests, limits.requests), (account.tokens, limits.tokens))
    return max(
        (bucket.at + bucket.held * _MINUTE / each for bucket, each in both if each is not None), default=0.0
    )


def _standings(limits: Limits, account: Account, now: float) -> list[tuple[Standing, float]]:
    """With the room that there is, below 0 where more was taken than there was."""
    found = []
    if limits.requests is not None:
        found.append(_standing("requests", limits.requests, account.requests, now))
    if limits.tokens is not None:
        found.append(_standing("tokens", limits.tokens, account.tokens, now))
    return found


def _standing(
    what: Literal["requests", "tokens"], per_minute: int, bucket: Bucket, now: float
) -> tuple[Standing, float]:
    held = _held(bucket, per_minute, now)
    room = per_minute - held
    return Standing(what, per_minute, max(0, int(room + _ROUNDING)), held * _MINUTE / per_minute), room


def _filled(bucket: Bucket, per_minute: int, now: float, more: int) -> Bucket:
    return Bucket(_held(bucket, per_minute, now) + more, now)


def _held(bucket: Bucket, per_minute: int, now: float) -> float:
    """What has not leaked yet."""
    return max(0.0, bucket.held - (now - bucket.at) * per_minute / _MINUTE)
