"""HTTPS at a node's own port, with and without certificates of clients, by real clients."""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.certificates import Authority, Files

from .node import PATIENCE, Node, chat_body, eventually, text, wait, write_script
from .tls import TlsNode, exo, flags, run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def laptop(authority: Authority) -> Files:
    return authority.issue("laptop", server=False)


@pytest.fixture(scope="module")
def _plain(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    home = tmp_path_factory.mktemp("tls")
    write_script(home, "slow", [text("one"), wait(30), text("two")], slots=4)
    node = TlsNode(home, authority.ca, *flags(authority.issue("node")))
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture(scope="module")
def _mutual(
    authority: Authority, laptop: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsNode]:
    home = tmp_path_factory.mktemp("mutual")
    own = authority.issue("mutual")
    node = TlsNode(home, authority.ca, *flags(own, authority.ca), identity=laptop)
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture
def node(_plain: TlsNode) -> Iterator[TlsNode]:
    """With TLS for anyone."""
    yield _plain
    _plain.check_log()


@pytest.fixture
def mutual(_mutual: TlsNode) -> Iterator[TlsNode]:
    """For clients with a certificate only."""
    yield _mutual
    _mutual.check_log()


def curl(node: Node, *options: str | Path, path: str = "/v1/models") -> subprocess.CompletedProcess[str]:
    return run("curl", "-sS", "--max-time", "20", *options, f"{node.url}{path}", env=os.environ)


# Anyone


def test_the_log_says_where_and_until_when(node: TlsNode) -> None:
    assert node.url.startswith("https://127.0.0.1:")
    assert "TLS with a certificate for 127.0.0.1, localhost, until 20" in node.log
    assert node.me()["url"] == node.me()["api"] == node.url


def test_the_openai_client_trusts_the_ca_and_is_answered(node: TlsNode) -> None:
    with openai.OpenAI(
        base_url=f"{node.url}/v1",
        api_key="unused",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=node.trust),
    ) as client:
        answer = client.chat.completions.create(
            model="exo-demo", messages=[{"role": "user", "content": "What is 145 + 278?"}]
        )
        assert "423" in str(answer.choices[0].message.content)
    with (
        openai.OpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0) as stranger,
        pytest.raises(openai.APIConnectionError),
    ):
        stranger.models.list()


def test_tokens_come_one_by_one(node: TlsNode) -> None:
    connection = node.connection()
    try:
        body = json.dumps(chat_body("slow", stream=True))
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        seen = b""
        while b"one" not in seen:
            seen += answer.read1(1 << 16)
        assert b"two" not in seen
    finally:
        connection.close()
    # Hanging up is noticed through TLS, too.
    eventually(lambda: node.running() == 0)


def test_plain_http_is_hung_up_on_at_once(node: TlsNode) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as plain:
        plain.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in plain.recv(1 << 10)
    assert node.get("/healthcheck").status == 200
    assert "http request" not in node.log.lower()


def test_rubbish_and_a_client_that_leaves_in_the_handshake_are_nothing_to_log(node: TlsNode) -> None:
    before = node.log
    for sent in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01" + bytes(511), bytes(range(256))):
        with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as rubbish:
            rubbish.sendall(sent)
    assert node.get("/healthcheck").status == 200
    assert node.log == before


def test_curl_wants_the_ca(node: TlsNode, authority: Authority) -> None:
    assert curl(node).returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
    told = curl(node, "--cacert", authority.ca)
    assert told.returncode == 0, told.stderr
    assert "exo-demo" in told.stdout
    assert curl(node, "--cacert", authority.ca, "--tls-max", "1.2").returncode == 0


def test_prometheus_is_told_of_https(node: TlsNode) -> None:
    [target] = node.get("/v1/prometheus/targets").json()
    assert target["targets"] == [f"127.0.0.1:{node.port}"]
    assert target["labels"]["__scheme__"] == "https"


# The commands


def test_commands_ask_over_https(node: TlsNode, authority: Authority, tmp_path: Path) -> None:
    ended = exo("ps", "--url", node.url, home=tmp_path)
    assert ended.returncode == 1
    assert "its certificate is not trusted here: " in ended.stderr
    assert "EXO_CA_FILE names a file" in ended.stderr
    assert exo("ps", "--url", node.url, home=tmp_path, EXO_CA_FILE=authority.ca).returncode == 0
    told = exo("list", home=tmp_path, EXO_CA_FILE=authority.ca, EXO_URL=node.url)
    assert "exo-demo" in told.stdout, told.stderr


@pytest.mark.parametrize(
    "command",
    [("run", "exo-demo", "What is 145 + 278?"), ("show", "exo-demo"), ("bench", "exo-demo", "--runs", "1")],
    ids=lambda command: command[0],
)
def test_commands_that_speak_for_themselves_say_what_to_trust(
    node: TlsNode, tmp_path: Path, command: tuple[str, ...]
) -> None:
    ended = exo(*command, "--url", node.url, home=tmp_path)
    assert ended.returncode == 1
    assert "EXO_CA_FILE names a file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_question_is_answered_over_https(node: TlsNode, authority: Authority, tmp_path: Path) -> None:
    told = exo(
        "run", "exo-demo", "What is 145 + 278?", "--url", node.url, home=tmp_path, EXO_CA_FILE=authority.ca
    )
    assert "423" in told.stdout, told.stderr


def test_a_command_knows_the_certificate_of_this_machine_s_own_node(tmp_path: Path) -> None:
    """Whatever names it has, and without any CA."""
    files = Authority(tmp_path / "own").issue("node", "exo.lan")
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (home / "config.toml").write_text(
        f'[http]\nhost = "127.0.0.1"\nport = {port}\n'
        f'tls_cert = "{files.certificate}"\ntls_key = "{files.key}"\n'
    )
    node = TlsNode(home, tmp_path / "own" / "ca.pem", "--port", str(port))
    try:
        assert node.port == port
        assert exo("ps", home=home).returncode == 0
        files.certificate.write_bytes(Authority(tmp_path / "x").issue("other").certificate.read_bytes())
        # Nor is what runs there taken for nothing, as where no node runs.
        for command in (("ps",), ("show", "exo-demo"), ("run", "exo-demo", "hi")):
            ended = exo(*command, home=home)
            assert ended.returncode == 1
            assert "not trusted here" in ended.stderr
        node.stop()
    finally:
        node.kill()


def test_a_command_that_speaks_http_to_it_is_told_so(node: TlsNode, tmp_path: Path) -> None:
    ended = exo("ps", "--url", node.url.replace("https", "http"), home=tmp_path)
    assert ended.returncode == 1
    assert "is it one for https://?" in ended.stderr


# Clients with a certificate


def test_only_who_shows_a_certificate_is_served(
    mutual: TlsNode, authority: Authority, laptop: Files, tmp_path: Path
) -> None:
    shown = ("--cert", laptop.certificate, "--key", laptop.key)
    told = curl(mutual, "--cacert", authority.ca, *shown)
    assert told.returncode == 0, told.stderr
    assert "exo-demo" in told.stdout
    without = curl(mutual, "--cacert", authority.ca)
    assert without.returncode != 0
    assert not without.stdout
    stranger = Authority(tmp_path).issue("laptop", server=False)
    wrong = curl(mutual, "--cacert", authority.ca, "--cert", stranger.certificate, "--key", stranger.key)
    assert wrong.returncode != 0
    assert not wrong.stdout
    # Nothing of them has got as far as a request.
    assert curl(mutual, "--cacert", authority.ca, path="/healthcheck").returncode != 0


def test_commands_show_theirs(mutual: TlsNode, authority: Authority, laptop: Files, tmp_path: Path) -> None:
    trusting = {"EXO_CA_FILE": authority.ca}
    without = exo("ps", "--url", mutual.url, home=tmp_path, **trusting)
    assert without.returncode == 1
    assert "the one that EXO_CLIENT_CERT names" in without.stderr
    identity = {"EXO_CLIENT_CERT": laptop.certificate, "EXO_CLIENT_KEY": laptop.key}
    told = exo("ps", "--url", mutual.url, home=tmp_path, **trusting, **identity)
    assert told.returncode == 0, told.stderr


def test_a_client_s_certificate_does_not_make_it_a_node_s_owner_or_a_node(mutual: TlsNode) -> None:
    headers = {"x-exo-hop": "somebody", "X-Forwarded-For": "10.0.0.9"}
    assert mutual.request("POST", "/v1/cluster/shard", b"", headers).status == 503
    assert mutual.request("DELETE", "/models/exo-demo", headers=headers).status == 403
