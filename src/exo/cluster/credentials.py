"""What this machine has to show to its cluster, and what is wrong with it, in plain words."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from exo.cluster import certificates
from exo.cluster.certificates import Bundle, Identity, ca_files, tls_files
from exo.errors import BadRequest
from exo.private import exposed

if TYPE_CHECKING:
    from cryptography import x509

_SOON = datetime.timedelta(days=30)
# Below this, whoever hears a signed state may find the secret by trying.
_FEWEST = 16


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """`ca` and `node` are the names in the certificates, "" where there are none; `until` is the end of the
    one that ends first. `can_invite` is whether the CA's own key is here, too."""

    ca: str = ""
    node: str = ""
    until: datetime.datetime | None = None
    can_invite: bool = False
    problems: tuple[str, ...] = ()


def inspect(folder: Path, now: datetime.datetime) -> Credentials:
    """What is in the folder of the cluster's certificates; an empty one is no problem."""
    files, authority = tls_files(folder), ca_files(folder)
    wanted = (files.ca, files.certificate, files.key)
    there = [path for path in wanted if path.exists()]
    if not there and not authority.key.exists():
        return Credentials()
    problems = [f"{path} is missing; run exo cluster join again" for path in wanted if path not in there]
    problems += [
        f"{path} can be read by other users of this machine; run {remedy}"
        for path in (files.key, authority.key)
        if path.exists() and (remedy := exposed(path, path.stat()))
    ]
    if len(there) < len(wanted):
        return Credentials(can_invite=authority.key.exists(), problems=tuple(problems))
    try:
        node, ca = _read(files.certificate), _read(files.ca)
        certificates.check(
            Bundle(Identity(files.certificate.read_bytes(), files.key.read_bytes()), files.ca.read_bytes())
        )
    except (OSError, BadRequest) as error:
        reason = error.message if isinstance(error, BadRequest) else f"{error.filename}: {error.strerror}"
        problems.append(f"{folder}: {reason}; take the folder away and run exo cluster join again")
        return Credentials(can_invite=authority.key.exists(), problems=tuple(problems))
    until = min(node.not_valid_after_utc, ca.not_valid_after_utc)
    if now > until:
        problems.append(f"the certificates ended on {until:%Y-%m-%d}; begin anew with exo cluster init")
    elif until - now < _SOON:
        problems.append(f"the certificates end on {until:%Y-%m-%d}; begin anew with exo cluster init")
    return Credentials(
        ca=_name(ca),
        node=_name(node),
        until=until,
        can_invite=authority.key.exists(),
        problems=tuple(problems),
    )


def problems_of_secret(secret: str) -> tuple[str, ...]:
    """What is wrong with a cluster's secret; nothing with one that is not set."""
    if not secret:
        return ()
    problems = []
    if secret != secret.strip():
        problems.append(
            "EXO_CLUSTER_SECRET begins or ends with a blank or a line end, which other nodes need just so"
        )
    if len(secret) < _FEWEST:
        problems.append(
            f"EXO_CLUSTER_SECRET has fewer than {_FEWEST} characters and can be guessed; "
            "openssl rand -hex 32 makes a good one"
        )
    return tuple(problems)


def _read(path: Path) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise BadRequest(f"{path.name} is no certificate") from error


def _name(certificate: "x509.Certificate") -> str:
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else "no name"
