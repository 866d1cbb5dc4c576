"""Who sent a request, and what may be done on its strength: a client with its key or address, or a node that
passes one on."""

import hmac
import re

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from exo.admission.keys import Key
from exo.errors import Forbidden, Unauthorized
from exo.http.desk import DESK
from exo.http.guard import ASKER, KEY
from exo.http.headers import CLIENT_HEADER, HOP_HEADER, PROOF_HEADER, proof
from exo.http.tls import is_peer

OPEN = web.AppKey("open", frozenset[str])
"""Paths that are answered without a key."""

PASSABLE = re.compile(r"[\x21-\x7e]{1,128}")
"""What may be passed on in a header."""

_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_READS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})


@web.middleware
async def authorized(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers whom the node's keys and limits let in. Raises `Unauthorized` and `RateLimited`."""
    if request.path in request.app[OPEN]:
        return await handler(request)
    guard = request.app[DESK].guard
    # A node's certificate says more than a key does, and nobody on the way can read it and use it again.
    if not (HOP_HEADER in request.headers and is_peer(request)):
        bearer = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
        if key := guard.key((bearer, request.headers.get("x-api-key", ""))):  # the latter is Anthropic's
            request[KEY] = key
    if _counts(request):
        asker = request[ASKER] = guard.asker(request.get(KEY), request.remote or "")
        guard.let_in(asker)
    return await handler(request)


def _counts(http: web.Request) -> bool:
    """Whether it is a client's own, and more than reading. Where there are neither keys nor limits, nothing
    does."""
    node, desk = http.headers.get(HOP_HEADER, ""), http.app[DESK]
    if http.method in _READS or not (KEY in http or desk.guard.limits_addresses):
        return False
    if not node or _doubt(http, node):
        return True
    if desk.certified or desk.secret is not None or KEY in http:
        return False
    # Anyone can say so here. An address is harder to make up.
    return not any(each.id == node and http.remote in each.addresses for each in desk.served.cluster().peers)


def client_of(http: web.Request) -> str:
    """Who asks, for fairness between clients: what a node that passes the request on says, else the
    address. Nothing is granted on the strength of it."""
    given = http.headers.get(CLIENT_HEADER, "")
    return given if PASSABLE.fullmatch(given) else http.remote or ""


def hop_of(http: web.Request) -> str:
    """The node that passes the request on; "" for a client's own. Raises `Unauthorized` for one that cannot
    prove that it belongs to the cluster, where that takes a certificate, a secret or a key."""
    node = http.headers.get(HOP_HEADER, "")
    if node and (why := _doubt(http, node)):
        raise Unauthorized(f"node '{node[:80]}' {why}")
    return node


def _doubt(http: web.Request, node: str) -> str:
    """Why it need not be that node; "" where nothing speaks against it."""
    desk = http.app[DESK]
    if desk.certified and not is_peer(http):
        return "comes without a certificate of this cluster"
    if desk.secret is not None:
        given = http.headers.get(PROOF_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), proof(desk.secret, node).encode()):
            return "does not have this cluster's secret"
    if key := guest(http):
        return f"comes with the key '{key.name}', which is no owner's: nodes show each other EXO_API_KEY"
    return ""


def guest(http: web.Request) -> Key | None:
    """The key that the request came with, where it is not an owner's."""
    key = http.get(KEY)
    return None if key is None or key.owner else key


def owner_only(http: web.Request) -> None:
    """Raises `Forbidden` unless the request may change what is on this machine: with an owner's key, or where
    the node has no keys, from this machine itself and not through a proxy on it."""
    if key := guest(http):
        raise Forbidden(
            f"{http.path} changes what is on this machine, and the key '{key.name}' is not an owner's: send "
            "one that `exo key add --owner` has made, or the EXO_API_KEY of the node"
        )
    if KEY in http:
        return
    if http.app[DESK].guard.asks:
        raise Forbidden(f"{http.path} changes what is on this machine, which no other node may ask for")
    proxied = hdrs.X_FORWARDED_FOR in http.headers or hdrs.FORWARDED in http.headers
    if proxied or (http.remote or "") not in _THIS_MACHINE:
        raise Forbidden(
            f"{http.path} changes what is on this machine, and is answered on the machine itself only; to "
            "use it from elsewhere, set EXO_API_KEY here and send it as the bearer token"
        )
