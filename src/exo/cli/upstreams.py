"""Other servers whose models a node offers: `--upstream`, and what the environment says of the NPU server."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import click

from exo.settings import UpstreamSettings


def server_url(given: str) -> str:
    """The address of a server: all that comes before "/v1" in those of its routes."""
    try:
        url = urlsplit(given)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise click.BadParameter(f"'{given}' is no server's address; write http://HOST:PORT")
    if "@" in url.netloc:
        raise click.BadParameter("a key goes into EXO_UPSTREAM_KEY, not into the address")
    path = url.path.rstrip("/").removesuffix("/v1")
    if url.query or url.fragment or "/v1" in path:
        raise click.BadParameter(f"'{given}' is more than a server's address; end it before /v1")
    return f"{url.scheme}://{url.netloc}{path}"


def upstreams(
    environment: Mapping[str, str], urls: Sequence[str], engine: str | None, port: int
) -> tuple[UpstreamSettings, ...]:
    """The servers for a node on `port`, which may be limited to an engine: the NPU server, then the others.

    The NPU server is the owner's own and gets the same key as a node; the others get one of their own.
    """
    key = environment.get("EXO_UPSTREAM_KEY") or None
    if key and not (key.isascii() and key.isprintable()):
        raise click.UsageError("EXO_UPSTREAM_KEY has a character in it that cannot be sent; a line end?")
    named = "RKLLM_SERVER_HOST" in environment or "RKLLM_SERVER_PORT" in environment
    found = [UpstreamSettings(kind="openai", url=url, key=key) for url in dict.fromkeys(urls)]
    if engine == "rkllm" or (engine is None and named):
        own = environment.get("EXO_API_KEY") or None
        found.insert(0, UpstreamSettings(kind="rkllm", url=_npu_server(environment), key=own))
    for upstream in found:
        place = urlsplit(upstream.url)
        if place.port == port and place.hostname in ("localhost", "127.0.0.1", "::1"):
            raise click.UsageError(f"{upstream.url} would be this node itself; --port gives it another port")
    return tuple(found)


def _npu_server(environment: Mapping[str, str]) -> str:
    """The NPU server's address, with defaults for what the environment does not say."""
    host = environment.get("RKLLM_SERVER_HOST") or "localhost"
    port = environment.get("RKLLM_SERVER_PORT") or "8080"
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise click.UsageError(f"RKLLM_SERVER_PORT is '{port}'; it takes a port from 1 to 65535")
    if _is_ipv6(host):
        host = f"[{host}]"
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise click.UsageError(
            f"RKLLM_SERVER_HOST is '{host}'; it takes a machine's name or address alone, and "
            "RKLLM_SERVER_PORT the port"
        )
    return f"http://{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
