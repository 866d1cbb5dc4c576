"""At which of a machine's addresses its node is reached over HTTP."""

import socket
from collections.abc import Sequence
from ipaddress import ip_address


def reachable_at(host: str) -> tuple[str, ...]:
    """This machine's addresses at which others may reach a server that listens on `host`, IPv4 first."""
    if host not in ("0.0.0.0", "::"):
        return (host,)
    import psutil

    families = (socket.AF_INET,) if host == "0.0.0.0" else (socket.AF_INET, socket.AF_INET6)
    every = (each for interface in psutil.net_if_addrs().values() for each in interface)
    texts = {each.address for each in every if each.family in families}
    found = [ip_address(text) for text in texts if "%" not in text]
    usable = [each for each in found if not (each.is_loopback or each.is_link_local)]
    return tuple(map(str, sorted(usable, key=lambda each: (each.version, int(each)))))


def nearest(url: str, theirs: Sequence[str], ours: Sequence[str]) -> str:
    """`url` with that of the node's addresses that has the longest beginning in common with one of ours: a
    machine in two networks is reached in the one it shares with us."""

    def common(address: str) -> int:
        bits = int(ip_address(address))
        same = (bits ^ int(ip_address(our)) for our in ours if (":" in our) == (":" in address))
        return max((-each.bit_length() for each in same), default=-999)

    if not theirs or not ours:
        return url
    best = max(theirs, key=common)
    scheme, _, rest = url.partition("://")
    host = f"[{best}]" if ":" in best else best
    return f"{scheme}://{host}:{rest.rpartition(':')[2]}"
