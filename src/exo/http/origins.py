"""Which web pages may use a node: decisions about `Origin` and `Host`, without I/O.

Browsers send what a page asks of any server to that server, and name the page in `Origin`, though not in
simple GETs of a page's own server. A page whose name is made to point to the node after it was loaded (DNS
rebinding) is of the node's own server for the browser. `Host` shows it: a name that can be registered.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence

_THIS_MACHINE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
# Ends of names that nobody can have the public resolve to a machine of his choice: RFC 6761, 6762, 8375, what
# ICANN has set aside and routers at home use, and those of tailnets.
_OURS = (
    *(".localhost", ".local", ".home.arpa", ".internal", ".lan", ".home", ".localdomain", ".fritz.box"),
    ".ts.net",
)


def may_ask(origin: str, host: str, named: Sequence[str]) -> bool:
    """Whether a page of `origin` may use the node that it calls `host`: pages of the node and of this machine
    may, and those that its owner has `named`, where "*" is all."""
    scheme, _, page = origin.partition("://")
    # Nobody can have another server show the certificate of his page's name.
    own = page == host and (scheme == "https" or not could_be_anyones(host, ()))
    return own or origin in named or "*" in named or bool(_THIS_MACHINE.fullmatch(origin))


def could_be_anyones(host: str, named: Sequence[str]) -> bool:
    """Whether a name in `Host` may be that of somebody else's page. It is not where it is an address, cannot
    be registered, is this machine's, or belongs to an origin that the owner has `named`."""
    name = _without_port(host).lower().rstrip(".")
    if "." not in name or name.endswith(_OURS) or name == socket.gethostname().lower() or _is_address(name):
        return False
    return "*" not in named and name not in {
        _without_port(each.partition("://")[2]).lower() for each in named
    }


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
