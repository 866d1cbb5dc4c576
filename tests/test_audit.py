"""Holes in what we depend on are found by the real programs. The services that know of them are played."""

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"
"""Where nobody listens."""


class Advisories(ThreadingHTTPServer):
    """OSV and npm's registry. They know of one hole in each package of `vulnerable`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.vulnerable: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Asked(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/query":
            name = msgspec.json.decode(body)["package"]["name"]
            known = {"vulns": [_osv(name)]} if name in self.server.vulnerable else {}
        else:
            assert self.path == "/-/npm/v1/security/advisories/bulk"
            known = {name: [_npm(name)] for name in self.server.vulnerable}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(msgspec.json.encode(known))

    def do_GET(self) -> None:
        """npm would like to know of newer versions."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None: ...


def _osv(name: str) -> dict[str, object]:
    affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "versions": [], "ranges": []}]
    return {"id": "OSV-1", "summary": "a hole", "details": "a hole", "affected": affected}


def _npm(name: str) -> dict[str, object]:
    return {
        "id": 1,
        "name": name,
        "title": "a hole",
        "severity": "high",
        "url": "",
        "vulnerable_versions": "*",
    }


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    with Advisories() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def audit(osv: str, registry: str, *options: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OSV_URL": f"{osv}/v1/query", "npm_config_registry": registry, "NO_PROXY": "*"}
    command = [str(ROOT / "scripts" / "audit"), *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_nothing_known_is_nothing_found(advisories: Advisories) -> None:
    done = audit(advisories.url, advisories.url)
    assert done.returncode == 0, done.stderr
    assert "NOT looked up" not in done.stderr


@pytest.mark.parametrize("package", ["aiohttp", "marked"])
def test_a_hole_in_a_package_fails_and_names_it(advisories: Advisories, package: str) -> None:
    advisories.vulnerable = {package}
    done = audit(advisories.url, advisories.url, "--where-reachable")
    assert done.returncode == 1
    assert package in done.stdout


def test_a_hole_is_one_where_the_other_service_is_not_there(advisories: Advisories) -> None:
    advisories.vulnerable = {"dompurify"}
    done = audit(NOWHERE, advisories.url, "--where-reachable")
    assert done.returncode == 1
    assert "Python packages were NOT looked up" in done.stderr
    assert "dompurify" in done.stdout


def test_what_could_not_be_looked_up_is_said_and_fails_unless_that_is_asked_for() -> None:
    done = audit(NOWHERE, NOWHERE)
    assert done.returncode == 2
    assert done.stderr.count("NOT looked up") == 4
    done = audit(NOWHERE, NOWHERE, "--where-reachable")
    assert done.returncode == 0
    assert done.stderr.count("NOT looked up") == 4
