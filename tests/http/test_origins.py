"""Which pages may use a node, decided; `tests/security` asks a node."""

import socket

import pytest

from exo.http.origins import could_be_anyones, may_ask

HOST = "192.168.1.20:52415"


@pytest.mark.parametrize(
    ("origin", "named", "may"),
    [
        (f"http://{HOST}", (), True),
        ("http://localhost:3000", (), True),
        ("https://[::1]", (), True),
        ("http://127.0.0.1.evil.example", (), False),
        ("http://localhost.evil.example", (), False),
        ("http://192.168.1.20", (), False),
        ("null", (), False),
        ("https://chat.example", (), False),
        ("https://chat.example", ("https://chat.example",), True),
        ("http://chat.example", ("https://chat.example",), False),
        ("https://chat.example:8443", ("https://chat.example",), False),
        ("https://sub.chat.example", ("https://chat.example",), False),
        ("https://chat.example", ("*",), True),
    ],
)
def test_pages_of_the_node_of_its_machine_and_those_that_were_named(
    origin: str, named: tuple[str, ...], may: bool
) -> None:
    assert may_ask(origin, HOST, named) is may


def test_a_page_of_the_nodes_own_name_may_where_nobody_else_can_have_it() -> None:
    assert may_ask("http://board.local:52415", "board.local:52415", ())
    assert not may_ask("http://evil.example:52415", "evil.example:52415", ())
    # Behind a certificate.
    assert may_ask("https://llm.example", "llm.example", ())


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:52415", "board", "board:52415", "board.local", "BOARD.LOCAL:1", "pc.lan"),
        *("192.168.1.20", "192.168.1.20:52415", "[::1]:52415", "[fe80::1%25eth0]:52415", "a.b.ts.net", ""),
        socket.gethostname(),
    ],
)
def test_addresses_and_names_of_homes_are_nobody_elses(host: str) -> None:
    assert not could_be_anyones(host, ())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:52415", "evil.example.", "local.evil.example", "127.0.0.1.evil.example"],
)
def test_what_can_be_registered_could_be_anyones_unless_it_was_named(host: str) -> None:
    assert could_be_anyones(host, ())
    assert could_be_anyones(host, ("https://chat.example",))
    assert not could_be_anyones(host, ("*",))
    name = host.rstrip(".").removesuffix(":52415")
    assert not could_be_anyones(host, (f"https://{name}:8443",))
