"""A real Prometheus, and what a test asks of it."""

import json
import math
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.page.member import free_port

PATIENCE = 30.0
"""Seconds after which waiting is a failure; never a way to pass."""

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIGURATION = DEPLOY / "prometheus"


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"these tests run {name}: apt-get install prometheus"
    return found


def shipped(file: str, **replaced: str) -> str:
    """A configuration as it is shipped, asking every second, and with what a test has to put into it."""
    text = (CONFIGURATION / file).read_text()
    changes = {
        "scrape_interval: 15s": "scrape_interval: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
        "rules/*.yml": f"{CONFIGURATION}/rules/*.yml",
        **replaced,
    }
    for old, new in changes.items():
        assert text.count(old) == 1, (file, old)
        text = text.replace(old, new)
    return text.replace("refresh_interval: 30s", "refresh_interval: 1s")


class Prometheus:
    """On a free port of 127.0.0.1, with its data in `folder`."""

    def __init__(self, folder: Path, configuration: str) -> None:
        folder.mkdir()
        (folder / "prometheus.yml").write_text(configuration)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        try:
            self.until(self._is_ready, "it is ready")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()

    def get(self, path: str, **query: str) -> Any:
        """What its API answers. A query that it does not understand is a failure here."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query or path}: {error.read().decode()}") from error
        assert body["status"] == "success", body
        return body["data"]

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an instant vector."""
        result = self.get("query", query=query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def has(self, query: str) -> bool:
        """Whether the query gives data: a number at least, and not only those of 0 / 0."""
        return any(math.isfinite(value) for _, value in self.ask(query))

    def up(self) -> set[tuple[str, str]]:
        """The targets that can be scraped, as their jobs and nodes."""
        return {(labels["job"], labels["node"]) for labels, _ in self.ask("up == 1")}

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits until it is so, where there is no event to wait for."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            ended = self._process.poll()
            assert ended is None, f"Prometheus ended with {ended}:\n{self._log.read_text()}"
            late = time.monotonic() >= deadline
            assert not late, f"it never came to be that {what}:\n{self._log.read_text()[-2000:]}"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=PATIENCE):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False
