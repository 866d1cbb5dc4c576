"""The owner's certificate, key and CA: what is read, and what is wrong with files."""

import ssl
import subprocess
import time
from pathlib import Path

import pytest

from exo.errors import NotReady
from exo.http import pem
from exo.http.tls import api_context
from exo.settings import TlsSettings
from tests.certificates import Authority, Files

DAY = 86400.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(files: Files, client_ca: Path | None = None) -> TlsSettings:
    return TlsSettings(certificate=files.certificate, key=files.key, client_ca=client_ca)


def what_is_wrong(files: TlsSettings) -> str:
    with pytest.raises(NotReady) as caught:
        api_context(files)
    return caught.value.message


def test_a_certificate_and_its_key_are_read_with_names_and_days(authority: Authority) -> None:
    files = authority.issue("node", "exo.lan", "192.168.1.10", ends=30)
    context, certificate = pem.load(settings(files))
    assert certificate.names == ("exo.lan", "192.168.1.10")
    assert abs(certificate.ends - time.time() - 30 * DAY) < 60
    assert str(certificate).startswith("a certificate for exo.lan, 192.168.1.10, until 20")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_an_intermediate_s_certificate_goes_behind(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("node")
    files.certificate.write_bytes(files.certificate.read_bytes() + authority.ca.read_bytes())
    assert pem.load(settings(files))[1].names == ("127.0.0.1", "localhost")
    files.certificate.write_bytes(authority.ca.read_bytes() + files.certificate.read_bytes())
    wrong = what_is_wrong(settings(files))
    assert f"{files.key} does not belong to the first certificate in --tls-cert" in wrong
    assert "the node's own comes first" in wrong


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_file_that_is_not_there_is_named(authority: Authority, which: str) -> None:
    files = authority.issue("node")
    path: Path = getattr(files, which)
    path.unlink()
    flag = {"certificate": "--tls-cert", "key": "--tls-key"}[which]
    assert what_is_wrong(settings(files)).startswith(f"{flag} {path}: No such file or directory; name a PEM")


def test_a_folder_is_no_file(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("node")._replace(certificate=tmp_path)
    assert what_is_wrong(settings(files)).startswith(f"--tls-cert {tmp_path}: Is a directory")


def test_what_is_no_pem_is_named(authority: Authority, tmp_path: Path) -> None:
    files, other = authority.issue("node"), tmp_path / "other"
    other.touch(0o600)
    other.write_text("-----BEGIN")
    assert f"--tls-cert {other} has no certificate" in what_is_wrong(
        settings(files._replace(certificate=other))
    )
    assert f"--tls-key {other} has no private key" in what_is_wrong(settings(files._replace(key=other)))
    other.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert f"--tls-key {other} cannot be used with" in what_is_wrong(settings(files._replace(key=other)))
    assert f"--tls-client-ca {other} has no certificate" in what_is_wrong(settings(files, other))


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    files = authority.issue("node")._replace(key=authority.issue("other").key)
    assert f"--tls-key {files.key} does not belong to" in what_is_wrong(settings(files))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(authority: Authority) -> None:
    files = authority.issue("node")
    locked = files.key.with_name("locked.pem")
    command = ("openssl", "pkey", "-in", files.key, "-aes256", "-passout", "pass:x", "-out", locked)
    subprocess.run(command, check=True, capture_output=True)
    locked.chmod(0o600)
    wrong = what_is_wrong(settings(files._replace(key=locked)))
    assert f"--tls-key {locked} has a password" in wrong
    assert f"openssl pkey -in {locked}" in wrong


def test_a_key_that_others_can_read_is_refused(authority: Authority) -> None:
    files = authority.issue("node")
    files.key.chmod(0o644)
    assert what_is_wrong(settings(files)) == (
        f"--tls-key {files.key}: others can read the key: chmod 600 {files.key}"
    )


def test_a_certificate_of_the_past_is_refused(authority: Authority) -> None:
    files = authority.issue("node", begins=-60, ends=-2)
    assert f"--tls-cert {files.certificate} ended on 20" in what_is_wrong(settings(files))


def test_one_of_the_future_is_served_and_told_of(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """A board's clock may be years behind when it starts."""
    api_context(settings(authority.issue("node", begins=2)))
    assert "is this machine's clock right?" in caplog.text


def test_a_certificate_that_is_not_for_servers_is_refused(authority: Authority) -> None:
    files = authority.issue("laptop", server=False)
    assert what_is_wrong(settings(files)) == (
        f"--tls-cert {files.certificate} cannot be a server's: unsuitable certificate purpose"
    )


def test_a_client_ca_of_the_past_is_refused(authority: Authority, tmp_path: Path) -> None:
    past = Authority(tmp_path, name="past", days=-1)
    wrong = what_is_wrong(settings(authority.issue("node"), past.ca))
    assert f"--tls-client-ca {past.ca} ended on" in wrong
