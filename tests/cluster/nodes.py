"""Node programs of the tests: started on a host or on this machine, and what they say waited for."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from exo.cluster.settings import ClusterSettings
from tests.cluster.hosts import Host
from tests.cluster.node import encode

PATIENCE = 30.0
"""Seconds after which waiting is a failure; never a way to pass."""

_DEFAULT = ClusterSettings()
_ROOT = Path(__file__).parents[2]


class NodeProgram:
    """`tests.cluster.node` with this id, on a host's network or this machine's own."""

    def __init__(
        self, id: str, settings: ClusterSettings = _DEFAULT, *, host: Host | None = None, **options: Any
    ) -> None:
        self.id = id
        command = [sys.executable, "-m", "tests.cluster.node", id, encode(settings)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = {**pipes, "cwd": _ROOT, **options}
        self.process: subprocess.Popen[bytes] = (
            subprocess.Popen(command, **options) if host is None else host.run(*command, **options)
        )
        self._said: list[dict[str, Any]] = []
        self._log: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(
                target=self._read, args=(self.process.stdout, self._said, json.loads), daemon=True
            ),
            threading.Thread(target=self._read, args=(self.process.stderr, self._log, str), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, into: list[Any], parse: Callable[[str], Any]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    into.append(parse(line.decode().rstrip("\n")))
                    self._news.notify_all()

    @property
    def log(self) -> str:
        return "\n".join(self._log)

    @property
    def peers(self) -> list[str]:
        """Who it said last are its peers."""
        peers: list[str] = next((each["peers"] for each in reversed(self._said) if "peers" in each), [])
        return peers

    def joined(self) -> float:
        """When it had joined, once it has."""
        return float(self._wait(lambda: self._find("joined"), "to have joined")["at"])

    def failed(self) -> str:
        """Why it could not join, once it said so."""
        return str(self._wait(lambda: self._find("failed"), "to have failed")["failed"])

    def sees(self, ids: Collection[str], *, after: float = 0.0, patience: float = PATIENCE) -> float:
        """Waits until its peers are just these, besides itself; when that came to be. What was already so
        `after` that moment of the shared clock came to be then."""
        wanted = sorted(set(ids) - {self.id})

        def seen() -> float | None:
            since = None
            for each in self._said:
                if "peers" in each:
                    since = each["at"] if each["peers"] == wanted else None
            return None if since is None else max(since, after)

        return float(self._wait(seen, f"to see {wanted}", patience))

    def says(self, part: str, patience: float = PATIENCE) -> str:
        """Waits for a line of its log with `part` in it."""
        return str(
            self._wait(lambda: next((line for line in self._log if part in line), None), part, patience)
        )

    def ever_saw(self, id: str) -> bool:
        return any(id in each.get("peers", ()) for each in self._said)

    def lines(self, part: str) -> list[str]:
        return [line for line in self._log if part in line]

    def leave(self) -> None:
        """Tells it to leave, as its owner would."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        """Ends it without a word."""
        self.process.kill()

    def end(self) -> None:
        """Leaves nothing of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(PATIENCE)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _find(self, key: str) -> dict[str, Any] | None:
        return next((each for each in self._said if key in each), None)

    def _wait(self, found: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        deadline = time.monotonic() + patience
        with self._news:
            while (result := found()) is None:
                left = deadline - time.monotonic()
                assert left > 0, f"'{self.id}' did not come {what}; it said {self._said[-3:]}\n{self.log}"
                self._news.wait(left)
        return result


def all_see(programs: Iterable[NodeProgram], ids: Collection[str], after: float = 0.0) -> float:
    """The moment from which all of them saw just these."""
    return max(program.sees(ids, after=after) for program in programs)


def took(what: str, promised: float, *seconds: float) -> None:
    """Holds the median of what was measured to what is promised, and prints it."""
    median = statistics.median(seconds)
    print(f"{what}: {median:.3f} s of {promised:g} s ({', '.join(f'{each:.3f}' for each in seconds)})")
    assert median <= promised, (what, seconds)
