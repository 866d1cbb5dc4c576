"""The owner's certificate, key and CA as PEM files: read, and what is wrong with them in words."""

import os
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from exo.errors import NotReady
from exo.private import exposed
from exo.settings import TlsSettings

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, which Python has no name for.
_NO_CHECK_TIME = 0x200000
# A chain of certificates takes some KB.
_MOST = 1 << 20


class Certificate(msgspec.Struct, frozen=True):
    """`names` are those that clients may know the node by, hosts and addresses. Times are in seconds since
    the epoch."""

    names: tuple[str, ...]
    begins: float
    ends: float

    def __str__(self) -> str:
        return f"a certificate for {', '.join(self.names) or 'no name at all'}, until {day(self.ends)}"


def day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def load(files: TlsSettings, now: float | None = None) -> tuple[ssl.SSLContext, Certificate]:
    """For a server that is to show the certificate, at the time `now`. One that is not valid yet is none of
    its faults: a board without a battery starts with a clock that is behind.

    Raises `NotReady` that names the file and what to do.
    """
    now = time.time() if now is None else now
    _read("--tls-cert", files.certificate)
    if b"ENCRYPTED" in (key := _read("--tls-key", files.key, secret=True)):
        raise NotReady(
            f"--tls-key {files.key} has a password, which nobody would type at start: "
            f"openssl pkey -in {files.key} -out NEW"
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_chain(context, files.certificate, files.key, key)
    certificate = _shown(context, files.certificate)
    if certificate.ends <= now:
        raise NotReady(
            f"--tls-cert {files.certificate} ended on {day(certificate.ends)}; "
            "renew it, or set the clock if that is wrong"
        )
    if files.client_ca:
        _trust(context, files.client_ca, now)
    return context, certificate


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        raise NotReady(f"--tls-cert {certificate} has no certificate in it (PEM): {_said(error)}") from error
    if b"PRIVATE KEY" not in content:
        raise NotReady(f"--tls-key {key} has no private key in it (PEM)")
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise NotReady(
                f"--tls-key {key} does not belong to the first certificate in --tls-cert {certificate}; "
                "the node's own comes first there, then those of the CAs between"
            ) from error
        raise NotReady(
            f"--tls-key {key} cannot be used with --tls-cert {certificate}: {_said(error)}"
        ) from error


def _trust(context: ssl.SSLContext, ca: Path, now: float) -> None:
    """Has clients show a certificate of the CA."""
    _read("--tls-client-ca", ca)
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise NotReady(f"--tls-client-ca {ca} has no certificate in it (PEM): {_said(error)}") from error
    ends = [_time(each, "notAfter") for each in context.get_ca_certs()]
    if ends and max(ends) <= now:
        raise NotReady(f"--tls-client-ca {ca} ended on {day(max(ends))}, so it lets nobody in: renew it")
    context.verify_mode = ssl.CERT_REQUIRED
    # What a client has shown counts for this connection: no session is gone on with, by whatever way TLS has.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0


def _shown(context: ssl.SSLContext, path: Path) -> Certificate:
    """What a client is shown, which it is here. So a key that cannot sign and a certificate that is not for
    servers are found, too."""
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    try:
        asking.load_verify_locations(path)
        asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        client, server = asking.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True)
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        client.do_handshake()
    except (OSError, ssl.SSLError) as error:
        raise NotReady(f"--tls-cert {path} cannot be a server's: {_said(error)}") from error
    shown = client.getpeercert() or {}
    names = tuple(str(each[1]) for each in shown.get("subjectAltName", ()))
    return Certificate(names, _time(shown, "notBefore"), _time(shown, "notAfter"))


def _time(certificate: Mapping[str, Any], name: str) -> float:
    return float(ssl.cert_time_to_seconds(certificate[name]))


def _read(called: str, path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read(_MOST)
    except OSError as error:
        raise NotReady(
            f"{called} {path}: {error.strerror}; name a PEM file that this user can read"
        ) from error
    if secret and (remedy := exposed(path, status)):
        raise NotReady(f"{called} {path}: others can read the key: {remedy}")
    return content


def _said(error: OSError) -> str:
    """OpenSSL's own word for it, in place of the line of Python's C that it came by."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error.strerror or error)
