"""TLS at a node's ports, and to those of others.

At the port for the nodes of a cluster it is mutual: both sides show a certificate of the cluster's CA. Names
are not compared: a node is found by its address, which changes, and being of the CA is what counts.

At the API's port clients see the owner's certificate (`pem` reads it). It is renewed while the node runs, by
programs that only put other files there. So each new connection looks at the files' times, which takes some
microseconds, and one for which they have changed gets the new ones; connections that are there already keep
what they have. A timer would wake a board for nothing, and a signal would have to be sent by somebody.

Where clients have to show a certificate, no session of an earlier connection is gone on with: a CA that is
taken away counts with the next one.
"""

import logging
import ssl
import time
from pathlib import Path

from aiohttp import web

from exo.errors import NotReady
from exo.http import pem
from exo.settings import TlsSettings

log = logging.getLogger(__name__)


class PeersContext(ssl.SSLContext):
    """That of the port for nodes: a connection made with it is one of the cluster's nodes."""


def server_context(ca: Path, certificate: Path, key: Path) -> PeersContext:
    """For the port that peers connect to. Raises `NotReady` for files that cannot be used."""
    context = PeersContext(ssl.PROTOCOL_TLS_SERVER)
    _of_cluster(context, ca, certificate, key)
    return context


def client_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For connections to peers. Raises as `server_context` does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _of_cluster(context, ca, certificate, key)
    return context


def is_peer(http: web.Request) -> bool:
    """Whether the other end has shown a certificate of the cluster: one that clients show at the API's port
    is of another CA, and lets nobody speak for a node."""
    return isinstance(http.get_extra_info("sslcontext"), PeersContext)


def _of_cluster(context: ssl.SSLContext, ca: Path, certificate: Path, key: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise NotReady(f"the cluster's certificates {ca}, {certificate} and {key}: {error}") from error


def unproven_context() -> ssl.SSLContext:
    """For this process' own port: whoever listens there is this process, whatever names the certificate
    has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# The API's port


def api_context(files: TlsSettings) -> ssl.SSLContext:
    """For the port of the API, renewed with the files. Raises `NotReady` for files that cannot be used: that
    are missing or broken, do not belong together, are of the past, or a key that others can read."""
    renewing = _Renewing(files)
    # A connection whose client has only said hello can still be given another one.
    renewing.first.sni_callback = renewing.on_hello
    return renewing.first


class _Renewing:
    """The files as they are now, or as they were when they could last be used."""

    def __init__(self, files: TlsSettings) -> None:
        self._files = files
        self._seen = _state(files)
        self.first = self._now = _loaded(files)

    def on_hello(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """As `SSLContext.sni_callback`; OpenSSL calls it for clients that name no server, too."""
        state = _state(self._files)
        if state != self._seen:
            # Also where they cannot be used: that is told once, until they change again.
            self._seen = state
            try:
                self._now = _loaded(self._files)
            except NotReady as error:
                log.error("%s. The certificate that was read before stays in use", error.message)
        if self._now is not context:
            connection.context = self._now


def _state(files: TlsSettings) -> tuple[object, ...]:
    """Differs from what it was when a file, or what a link leads to, is another one or has been written."""
    return tuple(_state_of(path) for path in (files.certificate, files.key, files.client_ca) if path)


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)


def _loaded(files: TlsSettings) -> ssl.SSLContext:
    context, certificate = pem.load(files)
    log.info("TLS with %s", certificate)
    if certificate.begins > time.time():
        log.warning(
            "%s is not valid before %s: is this machine's clock right?",
            files.certificate,
            pem.day(certificate.begins),
        )
    return context
