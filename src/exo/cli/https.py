"""What the commands trust and show where they ask a node over HTTPS.

That is said by the environment, as the key is: it belongs to a user and a machine, and not to one command.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import click

from exo.errors import ExoError
from exo.private import exposed

CA, CERTIFICATE, KEY = "EXO_CA_FILE", "EXO_CLIENT_CERT", "EXO_CLIENT_KEY"
VARIABLES = frozenset({CA, CERTIFICATE, KEY})


def context(
    url: str, own: Path | None = None, environment: Mapping[str, str] = os.environ
) -> ssl.SSLContext | None:
    """For requests to `url`; None where there is nothing to be said beyond the system's own CAs.

    `own` is the certificate of this machine's node where it is that one. It is trusted by itself and whatever
    its names are: an address like 127.0.0.1 is rarely among them, and only that node has the key to it.
    Raises `ClickException` for files that cannot be used.
    """
    ca, certificate, key = (
        Path(environment[name]) if environment.get(name) else None for name in (CA, CERTIFICATE, KEY)
    )
    if not url.startswith("https:"):
        return None
    if key and not certificate:
        raise click.UsageError(f"{KEY} is set without {CERTIFICATE}, the certificate of that key")
    if not (own or ca or certificate):
        return None
    asking = ssl.create_default_context()
    if own:
        asking.check_hostname = False
        asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _trust(asking, "--tls-cert", own)
    elif ca:
        _trust(asking, CA, ca)
    if certificate:
        _show(asking, certificate, key)
    return asking


def advice(error: ExoError) -> str:
    """What can be done where TLS has failed, to end an error's sentence with; "" for any other failure."""
    if not isinstance(error.__cause__, ssl.SSLError):
        return ""
    return f"; {CA} names a file with the certificate, or that of its CA, which the commands are to trust"


def hint(url: str) -> str:
    """Why a server may hang up without a word."""
    if url.startswith("https:"):
        return f"; a node that asks for a certificate is shown the one that {CERTIFICATE} names"
    return "; is it one for https://?"


def _trust(asking: ssl.SSLContext, called: str, path: Path) -> None:
    try:
        asking.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise click.ClickException(f"{called} {path}: {_said(error)}") from error


def _show(asking: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """The key may stand in the certificate's file, too."""
    try:
        asking.load_cert_chain(certificate, key, password="")
        remedy = exposed(key or certificate, (key or certificate).stat())
    except (OSError, ssl.SSLError) as error:
        named = f"{CERTIFICATE} {certificate}" + (f" with {KEY} {key}" if key else "")
        raise click.ClickException(f"{named}: {_said(error)}") from error
    if remedy:
        raise click.ClickException(f"others can read the key in {key or certificate}: {remedy}")


def _said(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error.strerror or error)
