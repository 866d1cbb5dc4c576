"""A board pulls what was converted: a real rkllama, asked by the real `exo pull`."""

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HERE, Bench
from tests.e2e.npu import NpuServer

from rkllm_convert import card
from rkllm_convert.convert import convert
from rkllm_convert.serve import Shelf, server


@pytest.fixture
def folder(bench: Bench) -> Path:
    return convert(bench.conversion(), bench.say)


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with server(Shelf(folder.parent), "127.0.0.1", 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield serving.server_port
        finally:
            serving.shutdown()
            thread.join()


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def test_a_board_pulls_it_and_answers_with_it(
    bench: Bench, folder: Path, build: Path, tmp_path: Path
) -> None:
    file = card.read(folder)["file"]
    command = [sys.executable, "-m", "rkllm_convert", "serve", str(folder.parent), "--host", "127.0.0.1"]
    path = f"{os.environ['PYTHONPATH']}{os.pathsep}{HERE.parent / 'src'}"
    serving = subprocess.Popen(
        [*command, "--port", "0"], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert serving.stderr
        url = serving.stderr.readline().rpartition("listening on ")[2].strip()
        assert url.startswith("http://127.0.0.1:"), url
        assert f"HF_ENDPOINT=http://THIS-MACHINE:{url.rpartition(':')[2]}" in serving.stderr.readline()
        shown = serving.stderr.readline().split()
        assert shown[:3] == ["exo", "pull", f"local/demo/{file}"]
        env = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "NO_PROXY": "*"}
        board = NpuServer(tmp_path / "board", build / bench.release / "librkllmrt.so", env=env)
        try:
            pulled = subprocess.run(
                [sys.executable, "-m", "exo.main", *shown[1:3], "--url", board.url],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert pulled.returncode == 0, pulled.stderr
            own = tmp_path / "board" / "models" / file.removesuffix(".rkllm")
            assert (own / file).read_bytes() == (folder / file).read_bytes()
            reply = board.chat(own.name, "What is 145 + 278?", enable_thinking=False, temperature=0)
            assert "423" in reply.json()["choices"][0]["message"]["content"]
            board.stop()
        finally:
            board.kill()
    finally:
        serving.terminate()
        serving.wait()
        assert serving.stderr
        serving.stderr.close()


def test_a_file_comes_from_where_it_broke_off(port: int, folder: Path) -> None:
    described = card.read(folder)
    path = f"/local/demo/resolve/main/{described['file']}"
    whole = (folder / described["file"]).read_bytes()
    status, headers, body = ask(port, path)
    assert (status, body, headers["ETag"]) == (200, whole, f'"{described["sha256"]}"')
    status, headers, body = ask(port, path, Range="bytes=1000-")
    assert (status, body) == (206, whole[1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(whole) - 1}/{len(whole)}"
    assert ask(port, path, Range=f"bytes={len(whole)}-")[0] == 416
    status, headers, body = ask(port, path, "HEAD")
    assert (status, int(headers["Content-Length"]), body) == (200, len(whole), b"")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/local/other/resolve/main/a", "RepoNotFound"),
        ("/local/demo/resolve/main/other", "EntryNotFound"),
        ("/local/demo/resolve/0000/card.json", "RevisionNotFound"),
        ("/local/demo/resolve/main/..%2F..%2Frecord.jsonl", None),
        ("/local/..%2Fdemo/resolve/main/card.json", None),
        ("/local/demo/resolve/main/../../../etc/passwd", None),
        ("/somebody/demo/resolve/main/card.json", None),
        ("/api/models/local/other", "RepoNotFound"),
        ("/", None),
    ],
)
def test_nothing_but_a_models_own_files_is_served(port: int, path: str, code: str | None) -> None:
    status, headers, _ = ask(port, path)
    assert (status, headers["X-Error-Code"]) == (404, code)


def test_a_model_that_is_not_whole_is_not_served(port: int, folder: Path) -> None:
    half = folder.parent / ".half.partial"
    half.mkdir()
    (half / "card.json").write_text((folder / "card.json").read_text())
    other = folder.parent / "no-card"
    other.mkdir()
    (other / "a.rkllm").write_bytes(b"x")
    assert ask(port, "/local/.half.partial/resolve/main/card.json")[0] == 404
    assert ask(port, "/local/no-card/resolve/main/a.rkllm")[0] == 404
    assert ask(port, "/local/demo/resolve/main/card.json")[0] == 200
