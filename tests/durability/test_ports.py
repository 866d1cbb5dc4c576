"""Ports and addresses that cannot be had: one line that says which and what to do, and no process left."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo.errors import NotReady
from exo.http.server import listen
from tests.e2e.node import PATIENCE, environment
from tests.e2e.test_cli import fails


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("program", ["exo", "rkllama"])
def test_a_port_that_is_taken(tmp_path: Path, taken: int, build: Path, program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"{program}.main", "--host", "127.0.0.1", "--port", str(taken)],
        env=environment(tmp_path, {"RKLLM_LIB_PATH": str(build / "1.3.0" / "librkllmrt.so")}),
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )
    fails(ended, f"127.0.0.1 port {taken}", "Address already in use", "--port picks another port")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1 port 0: Cannot assign requested address; --host takes"),
        ("no.such.name.invalid", "cannot listen on no.such.name.invalid: it is no address or name"),
        ("2001:db8::1", "cannot listen on 2001:db8::1 port 0: "),
    ],
)
def test_an_address_that_is_not_this_machines(host: str, says: str) -> None:
    with pytest.raises(NotReady) as refused:
        listen(host, 0)
    assert says in refused.value.message
