"""Traces that are kept in a list: for what a test wants to know of spans without a collector."""

import itertools
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from exo.chat import Trace
from exo.traces.spans import Kind, Span, Value, failure, unrecorded

ABOVE = Trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=opaque")


class KeptSpan:
    def __init__(
        self, name: str, kind: Kind, above: Trace, attributes: Mapping[str, Value], began: int
    ) -> None:
        self.name, self.kind, self.above, self.began = name, kind, above, began
        self.attributes = dict(attributes)
        self.trace = Trace(f"{ABOVE.parent[:36]}{next(_ids):016x}-01", above.state)
        self.ended = 0
        self.error = ""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} {self.error or 'well'}>"

    def note(self, attributes: Mapping[str, Value]) -> None:
        if not self.ended:
            self.attributes |= attributes

    def end(self, error: str = "", *, at: int | None = None) -> None:
        if not self.ended:
            self.ended, self.error = at or time.time_ns(), error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(failure(error))


_ids = itertools.count(1)


class Kept:
    recording = True

    def __init__(self) -> None:
        self.spans: list[KeptSpan] = []

    def begin(
        self,
        name: str,
        kind: Kind,
        above: Trace,
        attributes: Mapping[str, Value] | None = None,
        *,
        began: int | None = None,
    ) -> Span:
        if kind != "server" and not above.parent:
            return unrecorded(above)
        self.spans.append(KeptSpan(name, kind, above, attributes or {}, began or time.time_ns()))
        return self.spans[-1]

    async def close(self) -> None: ...

    @property
    def names(self) -> list[str]:
        """Of all that have ended, in the order of their beginnings."""
        assert all(span.ended for span in self.spans), self.spans
        return [span.name for span in sorted(self.spans, key=lambda span: span.began)]

    def one(self, name: str) -> KeptSpan:
        [found] = [span for span in self.spans if span.name == name]
        return found
