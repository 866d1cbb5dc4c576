"""Mutual TLS between the nodes of a cluster: both sides show a certificate of its CA.

Names are not compared: a node is found by its address, which changes, and being of the CA is what counts.
"""

import ssl
from pathlib import Path

from exo.errors import NotReady


def server_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For the port that peers connect to. Raises `NotReady` for files that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, ca, certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For connections to peers. Raises as `server_context` does."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, ca, certificate, key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(side: int, ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise NotReady(f"the cluster's certificates {ca}, {certificate} and {key}: {error}") from error
    return context
