"""Who is let in at the API's port, how its certificate is renewed, and how a node answers itself."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from exo.http.desk import Desk, Served
from exo.http.server import answers_itself, warn_if_open
from exo.http.tls import PeersContext, api_context, client_context, is_peer, server_context
from exo.metrics import Metrics
from exo.settings import HttpSettings, TlsSettings
from tests.certificates import Authority, Files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(files: Files, client_ca: Path | None = None) -> TlsSettings:
    return TlsSettings(certificate=files.certificate, key=files.key, client_ca=client_ca)


def trusting(ca: Path, shown: Files | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if shown:
        context.load_cert_chain(*shown)
    return context


def serial(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """The number of the certificate that `client` is shown by `server`, without a network between them.
    Raises what either side fails with."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(down, up, server_hostname="localhost")
    answers = server.wrap_bio(up, down, server_side=True)
    waiting = {asks, answers}
    for _ in range(8):
        for side in (asks, answers):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.discard(side)
    assert not waiting
    shown = asks.getpeercert()
    assert shown
    return str(shown["serialNumber"])


# Who is let in


def test_only_clients_of_the_ca_are_let_in(authority: Authority, tmp_path: Path) -> None:
    context = api_context(settings(authority.issue("node"), authority.ca))
    serial(context, trusting(authority.ca, authority.issue("laptop", server=False)))
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        serial(context, trusting(authority.ca))
    stranger = Authority(tmp_path / "other").issue("laptop", server=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        serial(context, trusting(authority.ca, stranger))


def test_a_client_of_a_public_ca_is_none_of_the_owner_s(authority: Authority) -> None:
    context = api_context(settings(authority.issue("node"), authority.ca))
    assert [each["subject"] for each in context.get_ca_certs()] == [
        ((("commonName", "ca of a test"),),),
    ]


def test_old_tls_is_refused(authority: Authority) -> None:
    context, old = api_context(settings(authority.issue("node"))), trusting(authority.ca)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        serial(context, old)


def test_a_node_that_wants_certificates_is_not_called_open(caplog: pytest.LogCaptureFixture) -> None:
    def warn(tls: TlsSettings) -> None:
        warn_if_open(Desk(cast(Served, None), Metrics("0", ()), HttpSettings(tls=tls), lambda: None))

    files = TlsSettings(certificate=Path("a"), key=Path("b"), client_ca=Path("c"))
    warn(files)
    assert not caplog.records
    warn(replace(files, client_ca=None))
    assert "anyone on this network" in caplog.text


# Renewing


def test_a_renewed_certificate_is_shown_to_the_next_client(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("node")
    context, client = api_context(settings(files)), trusting(authority.ca)
    first = serial(context, client)
    assert serial(context, client) == first
    authority.issue("node")
    second = serial(context, client)
    assert second != first
    assert serial(context, client) == second
    assert not caplog.records


def test_a_link_that_leads_elsewhere_is_another_file(authority: Authority, tmp_path: Path) -> None:
    """Which is how Let's Encrypt's programs do it."""
    links = Files(tmp_path / "live.pem", tmp_path / "live-key.pem")
    for link, path in zip(links, authority.issue("one"), strict=True):
        link.symlink_to(path)
    context, client = api_context(settings(links)), trusting(authority.ca)
    first = serial(context, client)
    for link, path in zip(links, authority.issue("two"), strict=True):
        link.unlink()
        link.symlink_to(path)
    assert serial(context, client) != first


def test_broken_files_change_nothing_and_are_told_of_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("node")
    context, client = api_context(settings(files)), trusting(authority.ca)
    first, good = serial(context, client), files.certificate.read_bytes()
    for break_it in (
        lambda: files.certificate.write_text("-----BEGIN CERTIFICATE-----"),
        files.certificate.unlink,
        lambda: authority.issue("node", begins=-3, ends=-2),
        lambda: files.key.chmod(0o640),
    ):
        caplog.clear()
        break_it()
        assert [serial(context, client) for _ in range(3)] == [first] * 3
        [told] = caplog.records
        assert told.levelname == "ERROR"
        assert "was read before stays in use" in told.getMessage()
    files.certificate.write_bytes(good)
    authority.issue("node")
    files.key.chmod(0o600)
    assert serial(context, client) != first


def test_a_certificate_without_its_new_key_waits_for_it(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("node")
    context, client = api_context(settings(files)), trusting(authority.ca)
    first = serial(context, client)
    new = authority.issue("new")
    files.certificate.write_bytes(new.certificate.read_bytes())
    assert serial(context, client) == first
    assert "does not belong to the first certificate" in caplog.text
    files.key.write_bytes(new.key.read_bytes())
    assert serial(context, client) != first


def test_a_client_ca_that_is_changed_counts_with_the_next_connection(
    authority: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "clients.pem"
    old, new = (Authority(tmp_path / name) for name in ("old", "new"))
    ca.write_bytes(old.ca.read_bytes())
    context = api_context(settings(authority.issue("node"), ca))
    theirs = trusting(authority.ca, old.issue("laptop", server=False))
    serial(context, theirs)
    ca.write_bytes(new.ca.read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        serial(context, theirs)
    serial(context, trusting(authority.ca, new.issue("laptop", server=False)))


def test_no_session_of_a_client_with_a_certificate_is_gone_on_with(authority: Authority) -> None:
    """Or a CA that is taken away would still count for it."""
    context = api_context(settings(authority.issue("node"), authority.ca))
    assert context.num_tickets == 0
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


# Connections


@asynccontextmanager
async def served(context: ssl.SSLContext, *statuses: int) -> AsyncIterator[tuple[socket.socket, list[bool]]]:
    """A server of TLS whose /healthcheck has these statuses, and whether each asker was taken for a node."""
    left, peers = [*statuses], list[bool]()

    async def healthcheck(http: web.Request) -> web.Response:
        peers.append(is_peer(http))
        return web.Response(status=left.pop(0))

    app = web.Application()
    app.router.add_get("/healthcheck", healthcheck)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        await web.SockSite(runner, sock, ssl_context=context).start()
        try:
            yield sock, peers
        finally:
            await runner.cleanup()


async def test_a_node_answers_itself_over_tls(authority: Authority) -> None:
    context = api_context(settings(authority.issue("node", "exo.lan")))
    async with served(context, 200, 503) as (sock, peers):
        own = sock.family, sock.getsockname()
        await answers_itself(*own, context)
        with pytest.raises(OSError, match="503"):
            await answers_itself(*own, context)
        assert peers == [False, False]
    with pytest.raises(ConnectionRefusedError):
        await answers_itself(*own, context)


async def test_where_it_has_nothing_to_show_the_handshake_is_the_answer(authority: Authority) -> None:
    files = authority.issue("node")
    context = api_context(settings(files, authority.ca))
    async with served(context) as (sock, peers):
        own = sock.family, sock.getsockname()
        await answers_itself(*own, context)
        assert not peers
    with pytest.raises(ConnectionRefusedError):
        await answers_itself(*own, context)


async def test_a_port_that_speaks_no_tls_is_no_answer(authority: Authority) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    context = api_context(settings(authority.issue("node"), authority.ca))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with await asyncio.start_server(hang_up, sock=sock):
            with pytest.raises(ConnectionResetError):
                await answers_itself(sock.family, sock.getsockname(), context)


async def test_who_shows_a_client_s_certificate_is_no_node_of_the_cluster(authority: Authority) -> None:
    laptop = authority.issue("laptop", server=False)
    ours = authority.issue("node")
    for context, client, is_node in (
        (api_context(settings(ours, authority.ca)), trusting(authority.ca, laptop), False),
        (server_context(authority.ca, *ours), client_context(authority.ca, *laptop), True),
    ):
        async with served(context, 200) as (sock, peers):
            url = f"https://localhost:{sock.getsockname()[1]}/healthcheck"
            connector = aiohttp.TCPConnector(ssl=client)
            async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
                assert answer.status == 200
            assert peers == [is_node]
            assert isinstance(context, PeersContext) == is_node
