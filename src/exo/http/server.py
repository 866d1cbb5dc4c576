"""Listens, serves until told to stop, and stops without breaking off answers."""

import asyncio
import errno
import logging
import os
import signal
import socket
import ssl
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from exo.errors import NotReady
from exo.http.connections import Connections, most
from exo.http.desk import DESK, Desk
from exo.http.open_files import raise_limit
from exo.http.tls import unproven_context
from exo.notify import Reports

log = logging.getLogger(__name__)

# Seconds between two requests of a connection: longer than balancers keep theirs (ten minutes at most), who
# would else send a request into one that is just being ended.
_KEPT = 620.0


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a client did: aiohttp logs a traceback for each that does not speak HTTP, or that has left
    when it is told to go on. Of another connection that broke, `app` makes an answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BadHttpMessage | web.RequestPayloadError | ConnectionError)


_aiohttp_log = logging.getLogger("exo.http.aiohttp")
_aiohttp_log.addFilter(_is_ours)


_REMEDIES = {
    errno.EADDRINUSE: "is another one running? --port picks another port",
    errno.EACCES: "ports below 1024 are root's; --port picks another port",
}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `NotReady` saying who to blame when the address cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotReady(
            f"cannot listen on {host}: it is no address or name of this machine ({error.strerror}); --host "
            "takes one, or 0.0.0.0 or :: for all of them"
        ) from error
    # A name may have addresses of both kinds ("localhost"), of which this machine has one at least.
    places = sorted(
        {(str(address[0]), family) for family, *_, address in found}, key=lambda each: ":" in each[0]
    )
    failures: list[OSError] = []
    for address, family in places:
        try:
            return socket.create_server((address, port), family=family, backlog=512)
        except OSError as error:
            failures.append(error)
    why = failures[0]
    remedy = _REMEDIES.get(why.errno or 0, "--host takes another address")
    raise NotReady(f"cannot listen on {host} port {port}: {os.strerror(why.errno or 0)}; {remedy}") from why


async def serve(
    app: web.Application,
    sock: socket.socket,
    stop: asyncio.Event,
    peers: tuple[socket.socket, ssl.SSLContext] | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves on the socket until `stop` is set, with `tls` over HTTPS; then takes nothing new, and lets
    answers end (see `Desk.drain`). Closes the socket. `peers` is one more, for nodes of the cluster alone. A
    supervisor is told of all that."""
    # Cancelled when their client leaves, streamed or not: `respond` relies on it to let go of hardware.
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=_KEPT,
        shutdown_timeout=1.0,
        logger=_aiohttp_log,
    )
    await runner.setup()
    assert runner.server is not None, "it has been set up"
    connections = Connections(runner.server, most=most(raise_limit()))
    desk, own = app[DESK], (sock.family, sock.getsockname())
    connections.listen(sock, tls)
    if peers:
        connections.listen(*peers)
    reports = Reports(desk.settings.supervisor, lambda: answers_itself(*own, tls), desk.why_not_ready)
    reporting = asyncio.create_task(reports.run())
    try:
        await stop.wait()
        reports.stopping()
        log.info("stopping: answers under way get %g s", desk.settings.grace)
        await connections.stop()
        await desk.drain()
    finally:
        reporting.cancel()
        await asyncio.wait([reporting])
        await connections.close()
        await runner.cleanup()


async def answers_itself(
    family: int, address: tuple[str | int, ...], tls: ssl.SSLContext | None = None
) -> None:
    """Returns once the server at `address`, with `tls` for its own, has answered a client of this machine.
    Raises `OSError` where it does not.

    Where clients have to show a certificate, its half of the handshake is the answer, as there is none here
    to be shown: of the port, the loop and TLS nothing is left out then, only the handler of /healthcheck,
    which does nothing. A second port without TLS would be answered whatever became of the first.
    """
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(
            client, (here.get(str(address[0]), address[0]), *address[1:])
        )
        over: dict[str, Any] = {"ssl": unproven_context(), "server_hostname": ""} if tls else {}
        reader, writer = await asyncio.open_connection(sock=client, **over)
    except BaseException:
        client.close()
        raise
    try:
        if tls and tls.verify_mode == ssl.CERT_REQUIRED:
            return
        writer.write(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = await reader.readline()
        if b" 200 " not in said:
            raise OSError(f"/healthcheck gives {said[:80]!r}")
    finally:
        writer.close()


def stop_on_signals(desk: Desk) -> asyncio.Event:
    """What SIGINT and SIGTERM set, and the end of the terminal it was started on, unless `nohup` or a shell
    has that ignored; a second one does not wait for answers under way."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            desk.abandon()
        stop.set()

    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    return stop


def warn_if_open(desk: Desk) -> None:
    http = desk.settings
    shown = http.tls is not None and http.tls.client_ca is not None
    if http.host not in ("127.0.0.1", "::1", "localhost") and not desk.guard.asks and not shown:
        log.warning("anyone on this network can use this node: set EXO_API_KEY, or --host 127.0.0.1")
