"""At which of a machine's addresses its node is reached over HTTP."""

from collections.abc import Sequence
from ipaddress import ip_address

from exo.cluster.network import addresses


def reachable_at(host: str) -> tuple[str, ...]:
    """This machine's addresses at which others may reach a server that listens on `host`, IPv4 first."""
    if host not in ("0.0.0.0", "::"):
        return (host,)
    own = [each for each in addresses() if host == "::" or each.version == 4]
    usable = [each for each in own if not each.is_link_local]
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
