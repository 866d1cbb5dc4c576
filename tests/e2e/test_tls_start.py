"""A node with TLS as it starts, while its files change, and as its supervisor sees it."""

import socket
from pathlib import Path

import pytest

from tests.certificates import Authority

from .node import PATIENCE
from .tls import TlsNode, exo, flags


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def refused(home: Path, *arguments: str) -> str:
    ended = exo("serve", "--host", "127.0.0.1", "--port", "0", *arguments, home=home)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "listening" not in ended.stderr
    return ended.stderr


def test_half_of_it_is_an_error_that_names_the_other_half(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue("half")
    assert "needs --tls-key" in refused(tmp_path, "--tls-cert", str(files.certificate))
    assert "needs --tls-cert" in refused(tmp_path, "--tls-key", str(files.key))
    assert "needs --tls-cert and --tls-key" in refused(tmp_path, "--tls-client-ca", str(authority.ca))


def test_a_key_that_others_can_read_keeps_it_from_starting(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue("loose")
    files.key.chmod(0o644)
    assert f"chmod 600 {files.key}" in refused(tmp_path, *flags(files))


def test_a_file_of_the_environment_is_named_too(tmp_path: Path, authority: Authority) -> None:
    ended = exo(
        "serve", "--host", "127.0.0.1", "--port", "0", home=tmp_path,
        EXO_TLS_CERT=tmp_path / "none.pem", EXO_TLS_KEY=authority.issue("n").key,
    )  # fmt: skip
    assert ended.returncode == 1
    assert f"--tls-cert {tmp_path / 'none.pem'}: No such file" in ended.stderr


def test_a_configuration_is_checked_as_far_as_the_files(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue("checked")
    check = ("config", "--check", "--host", "127.0.0.1", *flags(files))
    assert exo(*check, home=tmp_path).returncode == 0
    files.key.chmod(0o644)
    ended = exo(*check, home=tmp_path)
    assert ended.returncode == 2
    assert f"chmod 600 {files.key}" in ended.stderr


def test_a_node_among_others_needs_the_cluster_s_certificates(tmp_path: Path, authority: Authority) -> None:
    """They would speak HTTP to it. It ends before anything listens or looks for anybody."""
    ended = exo("config", *flags(authority.issue("many")), home=tmp_path)
    assert ended.returncode != 0
    assert "exo cluster init makes them" in ended.stderr
    assert "--discovery-module none" in ended.stderr
    alone = exo("config", *flags(authority.issue("one")), "--discovery-module", "none", home=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert exo("cluster", "init", home=tmp_path).returncode == 0
    assert exo("config", *flags(authority.issue("two")), home=tmp_path).returncode == 0


# While it runs


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(home: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("node")
    node = TlsNode(home, authority.ca, *flags(files))

    def serial() -> object:
        with (
            socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as sock,
            node.trust.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            shown = tls.getpeercert()
            assert shown
            return shown["serialNumber"]

    try:
        kept = node.connection()
        kept.request("GET", "/healthcheck")
        kept.getresponse().read()
        first = serial()
        authority.issue("node")
        second = serial()
        assert second != first
        files.key.write_text("nothing")
        assert serial() == serial() == second
        assert node.log.count("stays in use") == 1
        # Who was connected before is not disturbed.
        kept.request("GET", "/healthcheck")
        assert kept.getresponse().status == 200
        kept.close()
        node.stop()
    finally:
        node.kill()


# A supervisor


@pytest.mark.parametrize("with_clients", [False, True], ids=["tls", "mutual"])
def test_the_watchdog_is_answered_over_tls(
    home: Path, tmp_path: Path, authority: Authority, with_clients: bool
) -> None:
    files = authority.issue(f"watched-{with_clients}", "exo.lan")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        node = TlsNode(home, authority.ca, *flags(files, authority.ca if with_clients else None), env=env)
        try:
            told = [manager.recv(4096).decode() for _ in range(4)]
            assert "READY=1" in told[0]
            assert all("WATCHDOG=1" in each for each in told)
            assert "does not answer itself" not in node.log
            node.stop()
        finally:
            node.kill()
