"""The certificate of the API's own port."""

from collections.abc import Iterator

from exo.doctor.evidence import Evidence
from exo.doctor.finding import Finding

# Let's Encrypt's programs renew one 30 days before its end: something is wrong with them by then.
_ENDS_SOON = 14
_DAY = 86400


def examine(evidence: Evidence) -> Iterator[Finding]:
    https = evidence.https
    if https is None:
        return
    if https.problem is not None:
        yield Finding("broken", "HTTPS", f"a node does not start with it: {https.problem}")
        return
    if not https.names:
        says = f"{https.file} is for no name (subjectAltName), so no client trusts it"
        yield Finding("broken", "HTTPS", says, "Make one for the names and addresses that clients know.")
        return
    days = int(https.left // _DAY)
    says = f"{https.file} is for {', '.join(https.names)}, and for {days} more day{'s' * (days != 1)}"
    if days < _ENDS_SOON:
        yield Finding("note", "HTTPS", says, "Renew it: a node that runs takes up the new one by itself.")
    else:
        yield Finding("ok", "HTTPS", says)
