"""What other processes say of themselves: nodes and servers that are played, and a real `rkllama doctor`."""

import contextlib
import email.utils
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from exo.doctor.evidence import Peer, Server
from exo.doctor.gather import Scope, gather
from exo.doctor.gather.others import board, named, running_node, servers
from exo.errors import EngineFailed
from exo.nodes import Cluster, Device, Node
from exo.settings import UpstreamSettings
from tests.rkllama.board import trees

Answer = Callable[[web.Request], web.StreamResponse]
METRICS = """\
# TYPE exo_requests_total counter
exo_requests_total{model="a",status="ok"} 7.0
exo_requests_total{model="a",status="error"} 3.0
# TYPE exo_errors_total counter
exo_errors_total{type="timeout",model="a"} 3.0
"""


@asynccontextmanager
async def playing(answers: Mapping[str, Answer | bytes], *, key: str | None = None) -> AsyncIterator[str]:
    """A server on this machine that gives these answers; its URL. With a `key`, to whoever has it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            body = {
                "error": {"message": "a key is needed", "type": "x", "param": None, "code": "unauthorized"}
            }
            return web.json_response(body, status=401)
        answer = answers.get(request.path)
        if answer is None:
            body = {"error": {"message": "no such route", "type": "x", "param": None, "code": "not_found"}}
            return web.json_response(body, status=404)
        return answer(request) if callable(answer) else web.Response(body=answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def node(id: str, url: str, version: str = "0.1.0") -> Node:
    device = Device(name=id, cores=1, memory=1 << 30)
    return Node(
        id=id,
        url=url,
        version=version,
        device=device,
        cards=(),
        loaded=(),
        waiting=0,
        budget=9,
        addresses=("127.0.0.1",),
    )


def as_node(*peers: Node, **more: Answer | bytes) -> dict[str, Answer | bytes]:
    """What a node answers that sees these others."""
    cluster = Cluster(me=node("me", "http://127.0.0.1:1"), peers=peers)
    return {
        "/v1/cluster": msgspec.json.encode(cluster),
        "/v1/models": b'{"object":"list","data":[]}',
        "/ready": b'{"status":"ready"}',
        "/metrics": METRICS.encode(),
        **more,
    }


def clock(ahead: float) -> Answer:
    """A health check with a date of its own."""

    def answer(request: web.Request) -> web.Response:
        date = email.utils.formatdate(time.time() + ahead, usegmt=True)
        return web.Response(body=b'{"status":"ok"}', headers={"Date": date})

    return answer


def scope(url: str, tmp_path: Path, **more: object) -> Scope:
    return msgspec.structs.replace(Scope(home=tmp_path, folders=(), url=url), **more)


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


# The node


async def test_a_node_is_asked_about_itself_and_its_peers(tmp_path: Path, nobody: str) -> None:
    async with playing({"/healthcheck": clock(0)}) as good, playing({"/healthcheck": clock(100)}) as fast:
        peers = (node("good", good), node("fast", fast, "0.0.1"), node("gone", f"http://{nobody}"))
        async with playing(as_node(*peers)) as url:
            found = await running_node(scope(url, tmp_path))
    assert (found.id, found.problem, found.not_ready, found.keyless) == ("me", None, None, True)
    assert (found.budget, found.requests, found.failed) == (9, 10, 3)
    by_id: dict[str, Peer] = {peer.id: peer for peer in found.peers}
    assert by_id["good"].problem is None
    assert by_id["good"].ahead == pytest.approx(0, abs=2)
    assert by_id["fast"].ahead == pytest.approx(100, abs=2)
    assert by_id["fast"].version == "0.0.1"
    assert by_id["gone"].problem == f"http://{nobody}: Connection refused"


async def test_a_node_that_is_not_ready_says_why(tmp_path: Path) -> None:
    def not_ready(request: web.Request) -> web.Response:
        error = {"message": "loading exo-demo", "type": "x", "param": None, "code": "not_ready"}
        return web.json_response({"error": error}, status=503)

    async with playing({**as_node(), "/ready": not_ready}) as url:
        assert (await running_node(scope(url, tmp_path))).not_ready == "loading exo-demo"


async def test_a_node_with_a_key_is_asked_with_it(tmp_path: Path) -> None:
    async with playing(as_node(), key="hush") as url:
        without = await running_node(scope(url, tmp_path))
        found = await running_node(scope(url, tmp_path, key="hush"))
    assert "asks for a key" in str(without.problem)
    assert (found.problem, found.keyless) == (None, False)


async def test_that_nobody_answers_is_no_failure(tmp_path: Path, nobody: str) -> None:
    found = await running_node(scope(f"http://{nobody}", tmp_path))
    assert "cannot reach" in str(found.problem)


@pytest.mark.parametrize("answers", [{}, {"/v1/cluster": b"<html>"}, {"/v1/cluster": b"{}"}])
async def test_what_is_no_node_is_told_to_be_none(tmp_path: Path, answers: Mapping[str, bytes]) -> None:
    async with playing(answers) as url:
        assert (await running_node(scope(url, tmp_path))).problem


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = await running_node(scope(url, tmp_path))
    assert "silent for 1 s" in str(found.problem)


# Nodes that are named


async def test_named_nodes_are_knocked_at(tmp_path: Path, nobody: str) -> None:
    file = tmp_path / "peers.json"
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        file.write_text(json.dumps({"peers": {"carl": {"address": "localhost", "port": port}}}))
        found = await named(scope("http://h:1", tmp_path, named=(nobody,), manual_file=file))
    by_address = {each.address: each for each in found}
    assert by_address.keys() == {nobody, f"localhost:{port}"}
    assert by_address[nobody].problem == "Connection refused"
    assert by_address[f"localhost:{port}"].problem is None
    assert "127.0.0.1" in by_address[f"localhost:{port}"].hosts


async def test_routers_are_knocked_at_as_such(tmp_path: Path, nobody: str) -> None:
    (found,) = await named(scope("http://h:1", tmp_path, routers=(nobody,)))
    assert (found.address, found.kind, found.problem) == (nobody, "router", "Connection refused")


async def test_a_manual_file_that_is_broken_is_a_problem_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text('{"peers": 3}')
    (found,) = await named(scope("http://h:1", tmp_path, manual_file=file))
    assert (found.address, found.kind) == (str(file), "file")
    assert "not as it should be" in str(found.problem)


# Servers


def npu(url: str) -> UpstreamSettings:
    return UpstreamSettings(kind="rkllm", url=url, key="hush")


MODELS = b'{"object":"list","data":[{"id":"Qwen","object":"model","created":1,"owned_by":"me"}]}'


async def test_servers_of_both_dialects_are_told_apart(tmp_path: Path, nobody: str) -> None:
    today = {"/v1/models": MODELS, "/": b'{"name":"rkllama","version":"0.1.0"}'}
    first = {"/models": b'{"models":["Phi"]}', "/": b"Welcome"}
    async with playing(today, key="hush") as one, playing(first) as other, playing({"/models": b"?"}) as none:
        asked = tuple(map(npu, (one, other, none, f"http://{nobody}")))
        found = await servers(scope("http://h:1", tmp_path, servers=asked))
    assert found[:2] == (
        Server(url=one, npu=True, dialect="openai", release="rkllama 0.1.0", models=("Qwen",)),
        Server(url=other, npu=True, dialect="original", models=("Phi",)),
    )
    assert "no server of models" in str(found[2].problem)
    assert "cannot reach" in str(found[3].problem)


# The board


def doctor_of(root: Path) -> tuple[str, ...]:
    """`rkllama doctor --json` that looks at that board."""
    call = f"app(['doctor', '--json'], obj=Path({str(root)!r}))"
    return (sys.executable, "-c", f"from pathlib import Path; from rkllama.cli import app; {call}")


async def test_rkllama_doctor_is_asked_on_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKLLM_LIB_PATH", "/nowhere/librkllmrt.so")
    root = trees.write(tmp_path / "board", trees.slow_memory())
    found = await board(scope("http://h:1", tmp_path, root=root, npu_doctor=doctor_of(root)))
    by_subject = {finding.subject: finding for finding in found}
    assert by_subject["Board"].says.startswith("Radxa ROCK 5B (rk3588)")
    assert by_subject["DDR clock"].level == "slow"
    assert by_subject["Library"].level == "broken"


async def test_rkllama_doctor_is_not_asked_elsewhere(tmp_path: Path) -> None:
    root = trees.write(tmp_path / "pc", trees.pc())
    assert await board(scope("http://h:1", tmp_path, root=root, npu_doctor=("/nowhere",))) == ()


async def test_an_rkllama_doctor_that_fails_is_a_failure_with_its_words(tmp_path: Path) -> None:
    root = trees.write(tmp_path / "board", trees.rk3588())
    command = (sys.executable, "-c", "import sys; sys.exit('no such thing')")
    with pytest.raises(EngineFailed, match="rkllama doctor failed: no such thing"):
        await board(scope("http://h:1", tmp_path, root=root, npu_doctor=command))


# All of it


@pytest.mark.timed
async def test_all_is_looked_at_within_five_seconds_whatever_hangs(tmp_path: Path) -> None:
    root = trees.write(tmp_path / "board", trees.rk3588())
    hangs = (sys.executable, "-c", "import time; time.sleep(600)")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in silent]
        found = await gather(
            scope(urls[0], tmp_path, root=root, servers=(npu(urls[1]),), npu_doctor=hangs, memory=1 << 30)
        )
    assert time.monotonic() - began < 5
    assert [(each.what, each.why) for each in found.unread] == [
        ("rkllama doctor", "nothing came within 3.5 s")
    ]
    parts = (found.software, found.storage, found.memory, found.network, found.node, found.clock, found.shelf)
    assert None not in (*parts, found.security, found.surroundings)
    assert found.servers[0].problem is not None
