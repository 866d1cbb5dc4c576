"""Who belongs to the cluster, as certificates: a CA of the cluster's own, one certificate a node.

A node proves with its certificate that it belongs, and asks the same of the others, so a certificate is for
servers and clients alike. A join bundle is one PEM file with all that a node needs: its key, its
certificate, the CA's certificate, in this order. The CA's key is in none of them; who has it can let
machines in.

Certificates are valid from the year 2000, since boards without a battery start with a clock that is years
behind, and for long, since nobody renews certificates at home.
"""

import datetime
import os
import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from exo.cluster.settings import TlsFiles
from exo.errors import BadRequest, NotReady
from exo.private import exposed

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_YEARS = 20
# What looks for blocks takes time that grows with the square of the length.
_MOST = 64 << 10
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----\s*", re.DOTALL)


class Identity(msgspec.Struct, frozen=True):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Bundle(msgspec.Struct, frozen=True):
    """What a node needs to join: its own identity, and the CA's certificate as PEM."""

    node: Identity
    ca: bytes


class CaFiles(msgspec.Struct, frozen=True):
    """Where a CA is kept."""

    certificate: Path
    key: Path


def ca_files(folder: Path) -> CaFiles:
    return CaFiles(folder / "ca.pem", folder / "ca-key.pem")


def tls_files(folder: Path) -> TlsFiles:
    """Where `install` puts what a bundle holds."""
    return TlsFiles(ca=folder / "ca.pem", certificate=folder / "node.pem", key=folder / "node-key.pem")


def make_ca(name: str) -> Identity:
    """A CA for the cluster called `name`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = _new_key()
    subject = _named(f"{name} cluster CA")
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return _identity(certificate, key)


def make_node_certificate(ca: Identity, names: Sequence[str]) -> Bundle:
    """A certificate for a node with these host names or IP addresses, the first being what it is called.
    Raises `BadRequest` if there is no name, or the CA is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if not names:
        raise BadRequest("a certificate needs the name of its node")
    issuer, issuer_key = _read_certificate(ca.certificate), _read_key(ca.key)
    key = _new_key()
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder(_named(names[0]), issuer.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return Bundle(_identity(certificate, key), ca.certificate)


# Files


def write_ca(folder: Path, ca: Identity) -> CaFiles:
    """Raises `BadRequest` if there is one already: every certificate it gave would be void."""
    files = ca_files(folder)
    if files.key.exists():
        raise BadRequest(f"{files.key}: there is a CA already; remove it to begin anew with all nodes")
    write_private(files.key, ca.key)
    write_private(files.certificate, ca.certificate)
    return files


def read_ca(folder: Path) -> Identity:
    """Raises `NotReady` if there is none, or others can read its key."""
    files = ca_files(folder)
    try:
        ca = Identity(files.certificate.read_bytes(), files.key.read_bytes())
        remedy = exposed(files.key, files.key.stat())
    except OSError as error:
        raise NotReady(
            f"{error.filename}: {error.strerror}; the CA is on the machine where 'exo cluster init' was run"
        ) from error
    if remedy:
        raise NotReady(f"others can read {files.key}, with which they could let machines in: {remedy}")
    return ca


def pack(bundle: Bundle) -> bytes:
    """The bundle as one file, which is as secret as the key in it."""
    return bundle.node.key + bundle.node.certificate + bundle.ca


def unpack(content: bytes) -> Bundle:
    """Raises `BadRequest` for what is no bundle, or one whose parts do not belong together."""
    if len(content) > _MOST:
        raise BadRequest(f"no join bundle: those are a few thousand bytes, and this is {len(content)}")
    kinds = [match[1].decode() for match in _BLOCK.finditer(content)]
    if kinds != ["PRIVATE KEY", "CERTIFICATE", "CERTIFICATE"]:
        raise BadRequest(
            f"no join bundle: a key and two certificates are expected, found {kinds or 'nothing'}"
        )
    key, certificate, ca = (match[0] for match in _BLOCK.finditer(content))
    bundle = Bundle(Identity(certificate, key), ca)
    check(bundle)
    return bundle


def check(bundle: Bundle) -> None:
    """Raises `BadRequest` if the key is not the certificate's, or that is not of this CA."""
    from cryptography.exceptions import InvalidSignature

    node, ca = _read_certificate(bundle.node.certificate), _read_certificate(bundle.ca)
    if _read_key(bundle.node.key).public_key() != node.public_key():
        raise BadRequest("the key does not belong to the node's certificate")
    try:
        node.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise BadRequest("the node's certificate is not one of this CA") from error


def install(bundle: Bundle, folder: Path) -> TlsFiles:
    """Puts a bundle where `tls_files` says, in place of what is there."""
    files = tls_files(folder)
    write_private(files.key, bundle.node.key)
    write_private(files.certificate, bundle.node.certificate)
    write_private(files.ca, bundle.ca)
    return files


def write_private(path: Path, content: bytes) -> None:
    """A file only its owner reads, from its first byte on; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


# Certificates


def _new_key() -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _named(name: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # At most 64 characters: RFC 5280, appendix A.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise BadRequest(f"'{name}' is neither a host name nor an IP address") from error


def _builder(
    subject: "x509.Name", issuer: "x509.Name", key: "EllipticCurvePrivateKey"
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _identity(certificate: "x509.Certificate", key: "EllipticCurvePrivateKey") -> Identity:
    from cryptography.hazmat.primitives import serialization

    return Identity(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _read_certificate(pem: bytes) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise BadRequest(f"a certificate cannot be read: {error}") from error


def _read_key(pem: bytes) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"a key cannot be read: {error}") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise BadRequest("a key is not of the kind this cluster uses (elliptic curve)")
    return key
