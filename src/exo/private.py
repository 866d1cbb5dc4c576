"""Files with a secret in them, and whether others could read it there.

The rule is ssh's for its keys, with two more cases. A file of our own is for us alone. One that belongs to
somebody else, who is mostly root, may be for a group, too: that is how root hands a key to a service that it
does not own (Debian's group ssl-cert, or the ACL of a credential, whose mask shows where a group's bits are).
What Docker, Kubernetes and systemd put below /run/secrets and /run/credentials is as they see fit: there
nobody else is about, and Docker's secrets are 0444 for whatever user a container has.
"""

import os
import stat
from pathlib import Path

_HANDED_OVER = (Path("/run/secrets"), Path("/run/credentials"))


def exposed(path: Path, status: os.stat_result) -> str | None:
    """The command that would keep the file from others, where they can read or change it; None where they
    cannot. `status` is that of the file itself, not of a link to it."""
    mode = stat.S_IMODE(status.st_mode)
    own = status.st_uid == os.geteuid()
    if not mode & (0o077 if own else 0o007):
        return None
    real = path.resolve()
    if any(real.is_relative_to(place) for place in _HANDED_OVER):
        return None
    return f"chmod 600 {path}" if own else f"chmod o= {path}"
