"""How the page comes: its files, their headers, and nothing else."""

import gzip
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from exo.errors import NotFound
from exo.http import page_routes
from tests.e2e.conftest import Start
from tests.e2e.node import Node

from .browser import Watch
from .driver import Reader

VENDOR = page_routes.FOLDER / "vendor"
KILOBYTE = 1000


def test_the_page_is_at_the_root(node: Node) -> None:
    reply = node.get("/")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert b'<script type="module" src="/page/js/app.js">' in reply.body
    assert node.get("/page/js/app.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert node.get("/page/css/base.css").headers["content-type"] == "text/css; charset=utf-8"
    assert node.get("/page/icon.svg").headers["content-type"] == "image/svg+xml"


def test_headers_let_the_page_do_nothing_but_ask_its_node(node: Node) -> None:
    headers = node.get("/").headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


def test_what_the_browser_has_is_not_sent_again(node: Node) -> None:
    tag = node.get("/page/js/app.js").headers["etag"]
    again = node.request("GET", "/page/js/app.js", headers={"If-None-Match": tag})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert node.request("GET", "/page/js/app.js", headers={"If-None-Match": f'"x", {tag}'}).status == 304
    assert node.request("GET", "/page/js/app.js", headers={"If-None-Match": '"other"'}).status == 200
    head = node.request("HEAD", "/")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/../settings.py",
        "/page/%2e%2e/settings.py",
        "/page/js/../../settings.py",
        "/page//etc/passwd",
        "/page/index.html",
        "/page/vendor/VERSIONS",
        "/page/vendor/package.json",
        "/page/js",
    ],
)
def test_nothing_else_is_found(node: Node, path: str) -> None:
    reply = node.get(path)
    assert reply.status == 404
    assert reply.error()["code"] == "not_found"


def test_the_page_takes_no_key_and_opens_nothing(start: Start) -> None:
    node = start(env={"EXO_API_KEY": "a key for tests"})
    for path in page_routes.assets():
        assert node.get(path).status == 200
    assert node.get("/v1/models").status == 401
    assert node.get("/page/nothing").status == 401
    assert node.request("POST", "/", {}).status == 405


def test_there_is_no_markup_that_the_policy_would_stop() -> None:
    markup = (page_routes.FOLDER / "index.html").read_text()
    assert "style=" not in markup
    assert "<style" not in markup
    assert " on" not in markup.replace(" only", "").replace(" one", "").replace(" on y", "").replace(
        " on t", ""
    )
    assert markup.count("<script") == 1


def test_the_page_comes_compressed_to_who_takes_it(node: Node) -> None:
    plain = node.get("/page/js/app.js")
    packed = node.request("GET", "/page/js/app.js", headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["etag"] == plain.headers["etag"]
    assert packed.headers["vary"].lower() == "accept-encoding"
    assert "content-encoding" not in plain.headers


def test_all_files_together_are_light(reader: Reader, watch: Watch) -> None:
    """What is sent for a chat without code, what is sent with it, and what that is unpacked."""
    table = page_routes.assets()
    paths = {url.removeprefix(reader.node.url) for url in watch.asked} & table.keys()
    assert sum(len(table[path].gzipped) for path in paths) < 120 * KILOBYTE
    assert sum(len(asset.gzipped) for asset in table.values()) < 180 * KILOBYTE
    assert sum(len(asset.body) for asset in table.values()) < 450 * KILOBYTE


def test_a_package_without_its_page_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no chat page"):
        page_routes.assets(tmp_path)


def test_what_others_wrote_is_as_it_was_published() -> None:
    recorded = [line.split() for line in (VENDOR / "VERSIONS").read_text().splitlines()]
    for digest, name, *_ in recorded:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
        assert (VENDOR / f"{name}.LICENSE").stat().st_size > KILOBYTE
    assert {name for _, name, *_ in recorded} == {each.name for each in VENDOR.glob("*.js")}


def test_modules_are_small_and_without_markup() -> None:
    for module in (page_routes.FOLDER / "js").glob("*.js"):
        text = module.read_text()
        assert len(text.splitlines()) <= 300, module.name
        assert "innerHTML" not in text, module.name
        assert "outerHTML" not in text, module.name


def test_pure_parts_hold_to_their_own_tests() -> None:
    folder = Path(__file__).parent / "js"
    tests = sorted(str(each) for each in folder.glob("*.test.mjs"))
    ended = subprocess.run(
        ["node", "--test", *tests], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout


def test_the_wheel_has_the_page_in_it(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        there = {*packed.namelist()}
    files = [each for each in page_routes.FOLDER.rglob("*") if each.is_file()]
    missing = {f"exo/page/{each.relative_to(page_routes.FOLDER).as_posix()}" for each in files} - there
    assert not missing
