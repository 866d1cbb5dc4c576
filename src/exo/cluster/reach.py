"""At which of this machine's addresses its node is reached over HTTP."""

from exo.cluster.network import addresses


def reachable_at(host: str) -> tuple[str, ...]:
    """This machine's addresses at which others may reach a server that listens on `host`, IPv4 first."""
    if host not in ("0.0.0.0", "::"):
        return (host,)
    own = [each for each in addresses() if host == "::" or each.version == 4]
    usable = [each for each in own if not each.is_link_local]
    return tuple(map(str, sorted(usable, key=lambda each: (each.version, int(each)))))
