"""At which of its addresses another machine is best reached. Pure."""

from collections.abc import Sequence
from ipaddress import ip_address


def nearest(url: str, theirs: Sequence[str], ours: Sequence[str]) -> str:
    """`url` with that of the node's addresses that has the longest beginning in common with one of ours: a
    machine in two networks is reached in the one it shares with us.

    An address that is also one of ours is not where to find another machine: both have a bridge for
    containers, say, which is 172.17.0.1 on each. Two nodes of one machine have all addresses in common.
    """

    def common(address: str) -> int:
        bits = int(ip_address(address))
        same = (bits ^ int(ip_address(our)) for our in ours if (":" in our) == (":" in address))
        return max((-each.bit_length() for each in same), default=-999)

    if not theirs or not ours:
        return url
    own = [] if set(theirs) <= set(ours) else [each for each in theirs if each not in ours]
    best = max(own or theirs, key=common)
    scheme, _, rest = url.partition("://")
    host = f"[{best}]" if ":" in best else best
    return f"{scheme}://{host}:{rest.rpartition(':')[2]}"
