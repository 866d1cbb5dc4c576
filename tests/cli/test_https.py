"""What commands trust and show over HTTPS, and which files they refuse."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from exo.cli import clusters, https
from exo.cluster import certificates
from exo.errors import NotReady
from tests.certificates import Authority

URL = "https://exo.lan:52415"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def wrong(environment: Mapping[str, object], own: Path | None = None) -> str:
    with pytest.raises(click.ClickException) as caught:
        https.context(URL, own, {name: str(value) for name, value in environment.items()})
    return caught.value.message


def test_nothing_is_made_where_the_system_s_cas_do(authority: Authority) -> None:
    assert https.context(URL, None, {}) is None
    assert https.context(URL, None, {"EXO_CA_FILE": ""}) is None
    assert https.context("http://exo.lan", None, {"EXO_CA_FILE": str(authority.ca)}) is None


def test_a_ca_is_trusted_beside_the_system_s_and_names_still_count(authority: Authority) -> None:
    context = https.context(URL, None, {"EXO_CA_FILE": str(authority.ca)})
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == len(ssl.create_default_context().get_ca_certs()) + 1


def test_this_machine_s_own_node_is_known_by_its_certificate(authority: Authority) -> None:
    context = https.context(URL, authority.issue("node").certificate, {})
    assert context is not None
    assert not context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN


def test_a_key_may_stand_in_the_certificate_s_file(authority: Authority, tmp_path: Path) -> None:
    both, (certificate, key) = tmp_path / "both.pem", authority.issue("laptop", server=False)
    both.touch(0o600)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert https.context(URL, None, {"EXO_CLIENT_CERT": str(both)}) is not None
    both.chmod(0o644)
    assert wrong({"EXO_CLIENT_CERT": both}) == f"others can read the key in {both}: chmod 600 {both}"


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("laptop", server=False)
    none = tmp_path / "none.pem"
    assert wrong({"EXO_CA_FILE": none}) == f"EXO_CA_FILE {none}: No such file or directory"
    assert "no certificate or crl found" in wrong({"EXO_CA_FILE": key})
    assert wrong({}, none) == f"--tls-cert {none}: No such file or directory"
    assert wrong({"EXO_CLIENT_KEY": key}).startswith("EXO_CLIENT_KEY is set without EXO_CLIENT_CERT")
    other = authority.issue("other").key
    assert "key values mismatch" in wrong({"EXO_CLIENT_CERT": certificate, "EXO_CLIENT_KEY": other})
    assert f"EXO_CLIENT_CERT {none}" in wrong({"EXO_CLIENT_CERT": none, "EXO_CLIENT_KEY": key})
    key.chmod(0o640)
    assert f"chmod 600 {key}" in wrong({"EXO_CLIENT_CERT": certificate, "EXO_CLIENT_KEY": key})


# The cluster's own


def test_the_cluster_s_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    ca = certificates.make_ca("home")
    files = certificates.install(certificates.make_node_certificate(ca, ["a"]), tmp_path)
    assert clusters.certificates(tmp_path) == files
    files.key.chmod(0o640)
    with pytest.raises(click.UsageError, match=f"others can read {files.key}: chmod 600 {files.key}"):
        clusters.certificates(tmp_path)


def test_nobody_is_invited_with_a_ca_s_key_that_others_can_read(tmp_path: Path) -> None:
    files = certificates.write_ca(tmp_path, certificates.make_ca("home"))
    assert certificates.read_ca(tmp_path).key
    files.key.chmod(0o644)
    with pytest.raises(NotReady, match=f"let machines in: chmod 600 {files.key}"):
        certificates.read_ca(tmp_path)
