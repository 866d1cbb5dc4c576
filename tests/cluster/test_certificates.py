import stat
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from exo.cluster import certificates
from exo.cluster.certificates import Bundle, Identity
from exo.errors import BadRequest, NotReady

CA = certificates.make_ca("home")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return certificates.make_node_certificate(CA, ["board", "192.168.1.5", "board.local"])


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_a_nodes_certificate_holds_for_servers_and_clients_and_has_its_names(bundle: Bundle) -> None:
    node = read(bundle.node.certificate)
    usage = node.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["board", "board.local"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("192.168.1.5")]
    assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_its_chain_is_one_that_strict_verifiers_accept(bundle: Bundle) -> None:
    policy = PolicyBuilder().store(Store([read(bundle.ca)]))
    node = read(bundle.node.certificate)
    policy.build_server_verifier(x509.DNSName("board")).verify(node, [])
    policy.build_client_verifier().verify(node, [])
    stranger = PolicyBuilder().store(Store([read(certificates.make_ca("home").certificate)]))
    with pytest.raises(VerificationError):
        stranger.build_client_verifier().verify(node, [])


def test_a_board_whose_clock_is_years_behind_still_finds_it_valid(bundle: Bundle) -> None:
    for certificate in (read(bundle.node.certificate), read(bundle.ca)):
        assert certificate.not_valid_before_utc <= datetime(2000, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc.year >= datetime.now(UTC).year + 19


def test_a_bundle_comes_back_as_it_was_and_lacks_the_cas_key(bundle: Bundle) -> None:
    packed = certificates.pack(bundle)
    assert certificates.unpack(packed) == bundle
    assert certificates.unpack(b"# for the board in the kitchen\n" + packed) == bundle
    assert CA.key not in packed


def test_what_is_no_bundle_is_refused(bundle: Bundle) -> None:
    other = certificates.make_node_certificate(certificates.make_ca("home"), ["board"])
    for content, reason in (
        (b"", "found nothing"),
        (CA.certificate, "found"),
        (certificates.pack(bundle)[:-40], "found"),
        (certificates.pack(Bundle(bundle.node, other.ca)), "not one of this CA"),
        (certificates.pack(Bundle(Identity(bundle.node.certificate, other.node.key), CA.certificate)), "key"),
        (certificates.pack(bundle).replace(b"MII", b"MIJ"), "cannot be read"),
    ):
        with pytest.raises(BadRequest, match=reason):
            certificates.unpack(content)


def test_files_are_for_their_owner_only(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "cluster"
    files = certificates.install(bundle, folder)
    assert files == certificates.tls_files(folder)
    certificates.write_ca(folder / "ca", CA)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "ca")} == {0o700}
    assert (files.ca.read_bytes(), files.certificate.read_bytes()) == (bundle.ca, bundle.node.certificate)


def test_a_ca_is_read_back_and_never_overwritten(tmp_path: Path) -> None:
    certificates.write_ca(tmp_path, CA)
    assert certificates.read_ca(tmp_path) == CA
    with pytest.raises(BadRequest, match="there is a CA already"):
        certificates.write_ca(tmp_path, certificates.make_ca("home"))
    assert certificates.read_ca(tmp_path) == CA


def test_a_missing_ca_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"ca\.pem.*exo cluster init"):
        certificates.read_ca(tmp_path)


@pytest.mark.parametrize("names", [[], ["bücher"], ["a b é"]])
def test_a_name_that_no_certificate_can_carry_is_refused(names: list[str]) -> None:
    with pytest.raises(BadRequest):
        certificates.make_node_certificate(CA, names)
