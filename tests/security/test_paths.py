"""Names are no paths: whatever is asked for by name, nothing outside of the models' folder is read, made or
deleted."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from exo.store.catalogue import BUNDLED, Catalogue
from rkllama.models.catalogue import Models
from tests.e2e.node import Node, chat_body, text, write_script
from tests.e2e.npu import Bench, NpuServer
from tests.rkllama.npu import put_model

SMALL = next((BUNDLED / "exo-demo").glob("*.gguf"))
SECRET = "what-nobody-is-told"
SCRIPT = json.dumps({"steps": [{"type": "text", "text": SECRET}]})
NAMES = [
    "..",
    ".",
    "../secret",
    "../../secret",
    "hello/../../secret",
    "../models/../secret",
    "./hello/..",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/environ",
    "~/secret",
    "~root",
    "secret\0",
    "hello\0/../../secret",
    "..\\secret",
    "C:\\Windows\\win.ini",
    "C:secret",
    "\\\\server\\share",
    "CON",
    "NUL.gguf",
    "aux/hello",
    "hello.",
    "hello ",
    "%2e%2e/secret",
    "..%2fsecret",
    "%252e%252e%252fsecret",
    "..%c0%afsecret",
    "\u2025/secret",
    "\uff0e\uff0e/secret",
    "..\u2215secret",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "$(touch made)",
    "`touch made`",
    "; touch made",
    "-rf",
    "--help",
    "a\nb",
    "\x1b]0;title\x07",
    "hello:../../secret",
    "a/" * 2000 + "b",
    "a" * 255,
    "a" * 256,
    "..." * 80,
    "user/../../../secret",
    "user/repo/../../../secret",
    "user/repo/..",
]
ON_A_HUB = ("CON", "NUL.gguf", "aux/hello")
"""What a repository could be called, too, so that it is looked for where nobody answers."""


def looks(root: Path) -> dict[str, str]:
    """All that is under a folder, and what is in it, but for logs and caches."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "/"
        for file in sorted(root.rglob("*"))
        if "cache" not in file.parts
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret beside a node's home, one that reads like a model."""
    root = tmp_path_factory.mktemp("place")
    (root / "secret.script.json").write_text(SCRIPT)
    (root / "secret").mkdir()
    (root / "secret" / "secret.script.json").write_text(SCRIPT)
    return root


@pytest.fixture(scope="module")
def node(place: Path) -> Iterator[Node]:
    home = place / "home"
    write_script(home, "hello", [text("Hello")], slots=4)
    node = Node(home, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture(scope="module")
def npu(
    place: Path, tmp_path_factory: pytest.TempPathFactory, build: Path, file_for: Callable[..., Path]
) -> Iterator[NpuServer]:
    bench = Bench(place / "npu", build, file_for, "1.2.3")
    bench.put("demo")
    server = bench.start(env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def asks(name: str) -> list[tuple[str, str, object]]:
    """All requests that name a model, a file or an answer."""
    path, whole = quote(name, safe="/"), quote(name, safe="")
    messages = [{"role": "user", "content": "hi"}]
    return [
        ("POST", "/v1/chat/completions", chat_body(name)),
        ("POST", "/v1/completions", {"model": name, "prompt": "hi"}),
        ("POST", "/v1/embeddings", {"model": name, "input": "hi"}),
        ("POST", "/v1/messages", {"model": name, "messages": messages, "max_tokens": 4}),
        ("POST", "/v1/responses", {"model": name, "input": "hi"}),
        ("POST", "/v1/responses", {"model": "hello", "input": "hi", "previous_response_id": name}),
        ("POST", "/tokenize", {"model": name, "prompt": "hi"}),
        ("POST", "/detokenize", {"model": name, "tokens": [1]}),
        ("POST", "/api/chat", {"model": name, "messages": messages}),
        ("POST", "/api/generate", {"model": name, "prompt": "hi"}),
        ("POST", "/api/embed", {"model": name, "input": "hi"}),
        ("POST", "/api/show", {"model": name}),
        ("POST", "/api/pull", {"model": name, "stream": False}),
        ("POST", "/api/create", {"model": name, "from": "hello", "stream": False}),
        ("POST", "/api/create", {"model": "made", "from": name, "stream": False}),
        ("DELETE", "/api/delete", {"model": name}),
        ("POST", "/api/copy", {"source": "hello", "destination": name}),
        ("POST", f"/api/blobs/{whole}", {}),
        ("POST", "/v1/load", {"model": name}),
        ("POST", "/v1/spread", {"model": name}),
        ("POST", "/download", {"model": name}),
        ("GET", f"/v1/models/{path}", None),
        ("GET", f"/v1/models/{whole}", None),
        ("DELETE", f"/models/{path}", None),
        ("DELETE", f"/v1/models/{whole}", None),
        ("GET", f"/v1/responses/{whole}", None),
        ("DELETE", f"/v1/responses/{whole}", None),
        ("GET", f"/v1/route/explain?model={whole}", None),
        ("GET", f"/v1/cluster/plan?model={whole}", None),
        ("GET", f"/v1/cluster/plan?model=hello&split={whole}:0-1", None),
        ("GET", f"/page/{path}", None),
        ("GET", f"/page/{whole}", None),
        ("POST", "/load_model", {"model_name": name}),
        ("POST", "/load_model", {"model_name": "made", "from": name, "huggingface_path": name}),
        ("POST", "/unload_model", {"model_name": name}),
        ("POST", "/pull", {"model": name}),
        ("POST", "/pull", {"model": f"user/{name}/file.rkllm"}),
        ("DELETE", "/rm", {"model": name}),
    ]


def refuses(server: Node, place: Path, name: str) -> None:
    before = looks(place)
    for method, path, body in asks(name):
        reply = server.request(method, path, body)
        if reply.status == 503 and name in ON_A_HUB:
            assert b"cannot reach http://127.0.0.1:9 for" in reply.body
        else:
            assert 400 <= reply.status < 500, f"{method} {path} {body}: {reply}"
        assert SECRET.encode() not in reply.body
        assert b"root:" not in reply.body
    assert looks(place) == before
    server.check_log()


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_nodes_names_are_no_paths(node: Node, place: Path, name: str) -> None:
    refuses(node, place, name)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_the_npu_servers_names_are_no_paths(npu: NpuServer, place: Path, name: str) -> None:
    refuses(npu, place, name)


def test_deleting_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    (elsewhere / "far").mkdir(parents=True)
    shutil.copy(SMALL, elsewhere / "far" / "far.gguf")
    shutil.copy(SMALL, elsewhere / "near.gguf")
    models.mkdir()
    (models / "far").symlink_to(elsewhere / "far")
    (models / "near.gguf").symlink_to(elsewhere / "near.gguf")
    before = looks(elsewhere)
    catalogue = Catalogue(models)
    assert {*catalogue} == {"far", "near"}
    for model in ("far", "near"):
        catalogue.delete(model)
    assert not [*models.iterdir()]
    assert looks(elsewhere) == before


def test_deleting_a_link_of_the_npu_servers_leaves_what_it_leads_to(
    tmp_path: Path, file_for: Callable[..., Path]
) -> None:
    put_model(tmp_path / "elsewhere", file_for(), "far")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "far").symlink_to(tmp_path / "elsewhere" / "far")
    before = looks(tmp_path / "elsewhere")
    Models(tmp_path / "models").delete("far")
    assert not [*(tmp_path / "models").iterdir()]
    assert looks(tmp_path / "elsewhere") == before
