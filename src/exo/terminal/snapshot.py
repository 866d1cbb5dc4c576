"""What the panel shows, as values."""

import logging
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from exo.nodes import Cluster

Access: TypeAlias = Literal["key", "certificate", "open", "here"]
"""Who may use the node: whoever has the key, or a certificate, anyone who reaches it, or this machine
alone."""


_HUNG_UP = 499


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One that has ended. `at` is when it came, in seconds since the epoch, `seconds` how long it took, and
    `ttft` when its first token was there. `node` is "" where it is not known who answered. `error` is the
    failure's code; one whose client left has the status 499."""

    at: float
    model: str
    node: str = ""
    status: int = 200
    error: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ttft: float | None = None

    @property
    def hung_up(self) -> bool:
        """Whether the client left before the end, which is no failure."""
        return self.status == _HUNG_UP and not self.error

    @property
    def failed(self) -> bool:
        return not self.hung_up and (bool(self.error) or self.status >= 400)

    @property
    def rate(self) -> float:
        """Tokens a second once the first was there; 0 where there is no telling."""
        writing = self.seconds - (self.ttft or 0.0)
        return self.tokens / writing if self.tokens > 1 and writing > 0 else 0.0


class Line(msgspec.Struct, frozen=True):
    """One entry of the log: when, in seconds since the epoch, how grave, as `logging` has it, and what. As a
    whole it is `plain`, which may be many lines."""

    at: float
    level: int
    text: str
    plain: str

    @property
    def grave(self) -> bool:
        return self.level >= logging.WARNING


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that are here of a model's, all of them as far as they are known, and how many come a second.
    `failure` is why it broke off."""

    model: str
    done: int
    total: int
    rate: float = 0.0
    failure: str = ""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A node and its cluster at one moment.

    `urls` are where to open it, best first. `rates` are the tokens a second that go through this node now, by
    model. `problem` is why no chat can be served. The latest of `requests` comes first, of `lines` last;
    `answered` and `failed` count all requests there were, and `under_way` those that have not ended.
    """

    version: str
    urls: tuple[str, ...]
    access: Access
    cluster: Cluster
    problem: str = ""
    stopping: bool = False
    rates: Mapping[str, float] = {}
    under_way: int = 0
    answered: int = 0
    failed: int = 0
    requests: tuple[Request, ...] = ()
    downloads: tuple[Download, ...] = ()
    lines: tuple[Line, ...] = ()

    @property
    def moving(self) -> bool:
        """Whether figures change by themselves just now."""
        loading = any(each.state != "ready" for each in self.cluster.me.loaded)
        return bool(self.under_way or self.rates or loading) or any(not d.failure for d in self.downloads)
