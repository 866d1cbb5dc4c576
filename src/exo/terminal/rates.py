"""How fast counts grow."""

from collections import deque
from collections.abc import Mapping


class Rates:
    """Of counts by name, over the last `seconds`."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, Mapping[str, float]]] = deque()

    def now(self, at: float, counts: Mapping[str, float]) -> dict[str, float]:
        """What each grows by in a second, given the counts at the time `at`; those that do not are left out.
        A count that falls has been begun anew."""
        while len(self._seen) > 1 and self._seen[1][0] <= at - self._seconds:
            self._seen.popleft()
        self._seen.append((at, dict(counts)))
        began, before = self._seen[0]
        if at <= began:
            return {}
        grown = {name: count - before.get(name, 0.0) for name, count in counts.items()}
        return {name: more / (at - began) for name, more in grown.items() if more > 0}

    def forget(self) -> None:
        self._seen.clear()
