"""Listens, serves until told to stop, and stops without breaking off answers."""

import asyncio
import logging
import os
import signal
import socket
import ssl

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from exo.errors import NotReady
from exo.http.desk import DESK, Desk
from exo.notify import Reports
from exo.settings import HttpSettings

log = logging.getLogger(__name__)


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a client did: aiohttp logs a traceback for each that does not speak HTTP."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BadHttpMessage | web.RequestPayloadError)


_aiohttp_log = logging.getLogger("exo.http.aiohttp")
_aiohttp_log.addFilter(_is_ours)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `NotReady` saying who to blame when the address cannot be had."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        raise NotReady(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; is another one running? "
            "--port picks another port"
        ) from error


async def serve(
    app: web.Application,
    sock: socket.socket,
    stop: asyncio.Event,
    peers: tuple[socket.socket, ssl.SSLContext] | None = None,
) -> None:
    """Serves on the socket until `stop` is set; then takes nothing new, and lets answers end (see
    `Desk.drain`). Closes the socket. `peers` is one more, for nodes of the cluster alone. A supervisor is
    told of all that."""
    # Cancelled when their client leaves, streamed or not: `respond` relies on it to let go of hardware.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0, logger=_aiohttp_log
    )
    await runner.setup()
    sites = [web.SockSite(runner, sock)]
    if peers:
        sites.append(web.SockSite(runner, peers[0], ssl_context=peers[1]))
    desk, own = app[DESK], (sock.family, sock.getsockname())
    for site in sites:
        await site.start()
    reports = Reports(desk.settings.supervisor, lambda: answers_itself(*own), desk.why_not_ready)
    reporting = asyncio.create_task(reports.run())
    try:
        await stop.wait()
        reports.stopping()
        log.info("stopping: answers under way get %g s", desk.settings.grace)
        for site in sites:
            await site.stop()
        await desk.drain()
    finally:
        reporting.cancel()
        await asyncio.wait([reporting])
        await runner.cleanup()


async def answers_itself(family: int, address: tuple[str | int, ...]) -> None:
    """Returns once the server at `address` has answered a client of this machine. Raises `OSError` where it
    does not."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(
            client, (here.get(str(address[0]), address[0]), *address[1:])
        )
        reader, writer = await asyncio.open_connection(sock=client)
    except BaseException:
        client.close()
        raise
    try:
        writer.write(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = await reader.readline()
        if b" 200 " not in said:
            raise OSError(f"/healthcheck gives {said[:80]!r}")
    finally:
        writer.close()


def stop_on_signals(desk: Desk) -> asyncio.Event:
    """What SIGINT and SIGTERM set; a second one does not wait for answers under way."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            desk.abandon()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop


def warn_if_open(http: HttpSettings) -> None:
    if http.host not in ("127.0.0.1", "::1", "localhost") and not http.key:
        log.warning("anyone on this network can use this node: set EXO_API_KEY, or --host 127.0.0.1")
