"""The certificate that a node here would show to its clients."""

import time

from exo.doctor.evidence import Https
from exo.doctor.gather.scope import Scope
from exo.errors import NotReady


def https(scope: Scope) -> Https | None:
    """None where the API is plain HTTP."""
    from exo.http import pem

    if scope.tls is None:
        return None
    file, mutual = str(scope.tls.certificate), scope.tls.client_ca is not None
    try:
        _, certificate = pem.load(scope.tls)
    except NotReady as error:
        return Https(file=file, mutual=mutual, problem=error.message)
    return Https(file=file, names=certificate.names, left=certificate.ends - time.time(), mutual=mutual)
