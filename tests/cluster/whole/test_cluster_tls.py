"""Nodes with HTTPS for their clients, and the cluster's own certificates for each other."""

import http.client
import ssl
import subprocess
import sys
from pathlib import Path

from exo.http.headers import HOP_HEADER
from tests.certificates import Authority, Files
from tests.cluster.machines import Exo, Lan, Machine, inside
from tests.e2e.node import PATIENCE, chat_body, environment, text


class TlsExo(Exo):
    """Asked over HTTPS by a client that shows a certificate."""

    def __init__(self, machine: Machine, shown: Files, *flags: str) -> None:
        self._shown = shown
        super().__init__(machine.host, machine.home, *machine.flags, *flags, env=machine.env)

    def connection(self) -> http.client.HTTPConnection:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        trust.load_cert_chain(*self._shown)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=trust)
        with inside(self.host):
            connection.connect()
        return connection


def exo(home: Path, *arguments: str, given: bytes = b"") -> bytes:
    command = [sys.executable, "-m", "exo.main", *arguments]
    return subprocess.run(
        command, env=environment(home), input=given, capture_output=True, check=True, timeout=PATIENCE
    ).stdout


def start(machine: Machine, authority: Authority) -> Exo:
    """With HTTPS, for clients with a certificate of `authority` only."""
    own = authority.issue(f"{machine.home.name}-api")
    client = authority.issue(f"{machine.home.name}-client", server=False)
    files = ("--tls-cert", str(own.certificate), "--tls-key", str(own.key))
    machine.runs.append(TlsExo(machine, client, *files, "--tls-client-ca", str(authority.ca)))
    return machine.exo


def test_nodes_with_https_answer_for_each_other_at_the_port_for_nodes(lan: Lan, tmp_path: Path) -> None:
    machines = [lan.machine(name, scripts={f"of-{name}": [text("Hello")]}) for name in "ab"]
    exo(machines[0].home, "cluster", "init")
    bundle = exo(machines[0].home, "cluster", "invite", "b", "--out", "-")
    exo(machines[1].home, "cluster", "join", "-", given=bundle)
    authority = Authority(tmp_path / "ca")
    a, b = (start(machine, authority) for machine in machines)
    a.sees(b)
    b.sees(a)
    assert (a.ask("of-b"), b.ask("of-a")) == ("Hello", "Hello")
    # Who comes to the API's port may show a certificate, but none of the cluster, and is no node.
    assert a.request("POST", "/v1/chat/completions", chat_body("of-a"), {HOP_HEADER: "b"}).status == 401
    me, peer = a.get("/v1/prometheus/targets").json()
    for target in (me, peer):
        assert target["targets"][0].endswith(":52415")
        assert target["labels"]["__scheme__"] == "https"
