import logging
import os
import sys
from pathlib import Path

import msgspec
import pytest

from exo.cluster.discovery import Given, ManualFile, Tailscale, address, parse_manual, parse_tailscale, source
from exo.cluster.settings import ClusterSettings
from exo.errors import BadRequest, NotReady

# The original's example, and its two shapes of host.
MANUAL = {
    "peers": {
        "node1": {
            "address": "127.0.0.1",
            "port": 12345,
            "device_capabilities": {
                "model": "Unknown Model",
                "chip": "Unknown Chip",
                "memory": 0,
                "flops": {"fp32": 0, "fp16": 0, "int8": 0},
            },
        },
        "node2": {"address": "board.local", "port": 7000, "device_capabilities": {}},
    }
}
TAILSCALE = {
    "Version": "1.90.0",
    "BackendState": "Running",
    "Self": {"HostName": "here", "Online": True, "TailscaleIPs": ["100.64.0.1", "fd7a::1"]},
    "Peer": {
        "nodekey:1": {"HostName": "board", "Online": True, "TailscaleIPs": ["100.64.0.2", "fd7a::2"]},
        "nodekey:2": {"HostName": "asleep", "Online": False, "TailscaleIPs": ["100.64.0.3"]},
        "nodekey:3": {"HostName": "six", "Online": True, "TailscaleIPs": ["fd7a::4"]},
        "nodekey:4": {"HostName": "none", "Online": True, "TailscaleIPs": None},
    },
}


def write(path: Path, content: object) -> None:
    """As an editor does: beside, and then in place."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    beside.replace(path)


# Addresses


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("board", "board:7447"),
        ("board:8000", "board:8000"),
        (" 192.168.1.5 ", "192.168.1.5:7447"),
        ("192.168.1.5:1", "192.168.1.5:1"),
        ("fd00::5", "[fd00::5]:7447"),
        ("[fd00::5]", "[fd00::5]:7447"),
        ("[fd00::5]:8000", "[fd00::5]:8000"),
        ("fe80::5%eth0", "[fe80::5%eth0]:7447"),
    ],
)
def test_an_address_gets_the_port_it_lacks(given: str, expected: str) -> None:
    assert address(given, 7447) == expected


@pytest.mark.parametrize(
    "given",
    ["", ":7447", "board:", "board:x", "board:0", "board:65536", "a b", "tcp/board", "http://board", "b#x"],
)
def test_what_is_no_address_is_refused_by_name(given: str) -> None:
    with pytest.raises(BadRequest, match=f"'{given}'"):
        address(given, 7447)


def test_manual_discovery_without_a_file_is_refused() -> None:
    with pytest.raises(BadRequest, match="file"):
        source(ClusterSettings(discovery="manual"), "me")


@pytest.mark.parametrize(("discovery", "kind"), [("udp", Given), ("none", Given), ("tailscale", Tailscale)])
async def test_addresses_given_count_with_every_discovery(
    discovery: str, kind: type, tailnet: "Tailnet"
) -> None:
    tailnet.says(TAILSCALE)
    settings = ClusterSettings(discovery=discovery, peers=("board", "other:1"), port=9000)  # type: ignore[arg-type]
    found = source(settings, "me")
    assert isinstance(found, kind)
    assert await found.read() >= {"board:9000", "other:1"}


# The manual file


def test_the_originals_file_is_read_without_this_nodes_own_entry() -> None:
    content = msgspec.json.encode(MANUAL)
    assert parse_manual(content, "me", 7447) == {"127.0.0.1:12345", "board.local:7000"}
    assert parse_manual(content, "node1", 7447) == {"board.local:7000"}


def test_a_port_may_be_left_out_of_the_file() -> None:
    assert parse_manual(b'{"peers": {"a": {"address": "fd00::1"}}}', "me", 9) == {"[fd00::1]:9"}


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (b"", "truncated"),
        (b'{"peers": {"a": {"adress": "x"}}}', "adress"),
        (b'{"peers": {"a": {"port": 1}}}', "address"),
        (b'{"peers": {"a": {"address": "x", "port": "1"}}}', "port"),
        (b'{"peers": {"a": {"address": "http://x", "port": 1}}}', "http://x"),
        (b'{"nodes": {}}', "nodes"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(content: bytes, culprit: str) -> None:
    with pytest.raises(BadRequest, match=culprit):
        parse_manual(content, "me", 7447)


async def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    write(path, {"peers": {"a": {"address": "one"}}})
    manual = ManualFile(path, "me", 7447, frozenset({"given:1"}))
    assert await manual.read() == {"one:7447", "given:1"}
    write(path, {"peers": {"a": {"address": "two"}, "me": {"address": "here"}}})
    assert await manual.read() == {"two:7447", "given:1"}


async def test_a_file_that_breaks_keeps_what_it_said_and_that_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "nodes.json"
    write(path, {"peers": {"a": {"address": "one"}}})
    manual = ManualFile(path, "me", 7447)
    assert await manual.read() == {"one:7447"}
    write(path, b'{"peers": ')
    for _ in range(3):
        assert await manual.read() == {"one:7447"}
    path.unlink()
    for _ in range(3):
        assert await manual.read() == {"one:7447"}
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert all(str(path) in warning for warning in warnings)
    assert "truncated" in warnings[0]
    assert "No such file" in warnings[1]

    write(path, {"peers": {"a": {"address": "two"}}})
    assert await manual.read() == {"two:7447"}


@pytest.mark.parametrize("content", [None, b"{"])
async def test_a_file_that_is_no_good_at_first_says_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "nodes.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotReady, match=str(path)):
        await ManualFile(path, "me", 7447).read()


# Tailscale


class Tailnet:
    """A `tailscale` program that says what the test wants. `log` is what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "asked"
        self.program = folder / "tailscale"

    def says(self, status: object, code: int = 0, complaint: str = "") -> None:
        (self.folder / "status.json").write_bytes(msgspec.json.encode(status))
        write(
            self.program,
            f"#!{sys.executable}\n"
            "import pathlib, sys\n"
            f"folder = pathlib.Path({str(self.folder)!r})\n"
            "with (folder / 'asked').open('a') as log: log.write(repr(sys.argv[1:]) + chr(10))\n"
            "print((folder / 'status.json').read_text())\n"
            f"print({complaint!r}, file=sys.stderr)\n"
            f"sys.exit({code})\n".encode(),
        )
        self.program.chmod(0o755)


@pytest.fixture
def tailnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tailnet:
    folder = tmp_path / "tailnet"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Tailnet(folder)


def test_machines_of_the_tailnet_that_are_online_are_addresses() -> None:
    assert parse_tailscale(msgspec.json.encode(TAILSCALE), 7447) == {"100.64.0.2:7447", "[fd7a::4]:7447"}


def test_a_machine_alone_in_its_tailnet_has_no_addresses() -> None:
    assert parse_tailscale(b'{"BackendState": "Running", "Peer": null}', 7447) == frozenset()


async def test_the_tailscale_program_is_asked_for_its_status(tailnet: Tailnet) -> None:
    tailnet.says(TAILSCALE)
    found = await Tailscale(9000, frozenset({"given:1"})).read()
    assert found == {"100.64.0.2:9000", "[fd7a::4]:9000", "given:1"}
    assert tailnet.log.read_text() == "['status', '--json']\n"


async def test_a_missing_tailscale_program_is_named_at_the_start(tailnet: Tailnet) -> None:
    with pytest.raises(NotReady, match="'tailscale', which is not on the PATH"):
        await Tailscale(7447).read()


@pytest.mark.parametrize(
    ("status", "code", "complaint", "told"),
    [
        ({"BackendState": "Stopped"}, 0, "", "tailscale up"),
        ({}, 1, "failed to connect to local tailscaled", "failed to connect to local tailscaled"),
        (["no"], 0, "", "cannot read"),
    ],
)
async def test_tailscale_that_does_not_answer_is_told_once_and_asked_again(
    tailnet: Tailnet, caplog: pytest.LogCaptureFixture, status: object, code: int, complaint: str, told: str
) -> None:
    tailscale = Tailscale(7447)
    tailnet.says(status, code, complaint)
    assert [await tailscale.read(), await tailscale.read()] == [frozenset(), frozenset()]
    assert [told in record.message for record in caplog.records] == [True]

    tailnet.says(TAILSCALE)
    there = await tailscale.read()
    assert len(there) == 2
    os.remove(tailnet.program)
    assert await tailscale.read() == there
    assert "not on the PATH" in caplog.records[-1].message
