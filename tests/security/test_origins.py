"""Which pages may use a node from a browser: those that its owner named, its own, and this machine's."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Start, home, start
from tests.e2e.node import Node, chat_body, text, write_script

__all__ = ["home", "start"]

NAMED = "https://app.example"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("origins")
    write_script(home, "hello", [text("Hello")], slots=4)
    node = Node(home, "--cors-origin", NAMED, "--cors-origin", "http://other.example:8080")
    try:
        yield node
        node.stop()
    finally:
        node.kill()


def asked(node: Node, origin: str, host: str = "") -> tuple[int, str | None]:
    """The status of a chat that a page of `origin` asks for, and whom the answer is for."""
    headers = {"Origin": origin, **({"Host": host} if host else {})}
    preflight = node.request("OPTIONS", CHAT, headers={**headers, "Access-Control-Request-Method": "POST"})
    reply = node.request("POST", CHAT, chat_body("hello"), headers)
    assert (preflight.status < 400) is (reply.status < 400), "the two disagree"
    assert preflight.headers.get("access-control-allow-origin") == reply.headers.get(
        "access-control-allow-origin"
    )
    return reply.status, reply.headers.get("access-control-allow-origin")


@pytest.mark.parametrize(
    "origin",
    [
        NAMED,
        "http://other.example:8080",
        "http://localhost",
        "https://localhost:8443",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
    ],
)
def test_these_may(node: Node, origin: str) -> None:
    assert asked(node, origin) == (200, origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "file://",
        "http://app.example",
        "https://app.example:443",
        "https://app.example:8443",
        "https://app.example/",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://evil.app.example",
        "https://app.example@evil.example",
        "https://evil.example/https://app.example",
        "HTTPS://APP.EXAMPLE",
        "https://app.example https://evil.example",
        "https://app.example,https://evil.example",
        "https://appxexample",
        "http://other.example",
        "http://other.example:80800",
        "http://localhost.evil.example",
        "http://evil.localhost.example",
        "http://localhost:",
        "http://localhost:3000@evil.example",
        "http://localhost:3000/../..",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.2",
        "http://127.0.0.1:1:2",
        "http://127a0b0c1",
        "http://[::1].evil.example",
        "http://0.0.0.0",
        "chrome-extension://abcdefgh",
        "ws://localhost",
        "*",
        "https://*",
        "\xff",
    ],
)
def test_others_may_not(node: Node, origin: str) -> None:
    assert asked(node, origin) == (403, None)


@pytest.mark.parametrize(
    "host", ["192.168.1.5:52415", "[fd00::5]:52415", "board:52415", "board.local:52415", "pi.tail1.ts.net"]
)
def test_the_nodes_own_page_may(node: Node, host: str) -> None:
    assert asked(node, f"http://{host}", host) == (200, f"http://{host}")


def test_behind_a_certificate_any_name_is_its_own(node: Node) -> None:
    """A proxy that ends TLS asks over plain HTTP; no other page can be under that name."""
    assert asked(node, "https://llm.example", "llm.example") == (200, "https://llm.example")


@pytest.mark.parametrize(
    "host", ["evil.example:52415", "evil.example", "1.2.3.4.evil.example", "a.local.evil"]
)
def test_a_name_that_somebody_made_lead_here_may_not(node: Node, host: str) -> None:
    """DNS rebinding: the browser takes the page and the node for the same server, and names the page in what
    it writes only."""
    assert asked(node, f"http://{host}", host) == (403, None)
    read = node.request("GET", "/v1/models", headers={"Host": host})
    assert read.status == 403
    assert f"--cors-origin http://{host}" in read.error()["message"]
    assert node.request("GET", "/ready", headers={"Host": host}).status == 200


def test_by_the_name_that_its_owner_gave_it_a_node_is_read(node: Node) -> None:
    for host in ("app.example", "app.example:8080", "other.example"):
        assert node.request("GET", "/v1/models", headers={"Host": host}).status == 200


def test_no_page_has_a_key_so_a_node_with_one_is_read_by_any_name(start: Start) -> None:
    node = start(env={"EXO_API_KEY": "a key for tests"})
    headers = {"Host": "evil.example", "Authorization": "Bearer a key for tests"}
    assert node.request("GET", "/v1/models", headers=headers).status == 200
    assert node.request("GET", "/v1/models", headers={"Host": "evil.example"}).status == 401
