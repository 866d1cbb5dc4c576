"""A real `exo` process that serves HTTPS, and commands that ask it."""

import http.client
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.certificates import Files

from .node import PATIENCE, Node, environment


class TlsNode(Node):
    """A node that is asked over HTTPS, by whoever trusts `ca`, and shows `identity`."""

    def __init__(
        self,
        home: Path,
        ca: Path,
        *flags: str,
        identity: Files | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.trust = ssl.create_default_context(cafile=str(ca))
        if identity:
            self.trust.load_cert_chain(*identity)
        super().__init__(home, *flags, env=env)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.trust)


def flags(files: Files, client_ca: Path | None = None) -> tuple[str, ...]:
    mutual = ("--tls-client-ca", str(client_ca)) if client_ca else ()
    return ("--tls-cert", str(files.certificate), "--tls-key", str(files.key), *mutual)


def run(*command: str | Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=dict(env), timeout=PATIENCE
    )


def exo(*arguments: str, home: Path, **env: str | Path) -> subprocess.CompletedProcess[str]:
    given = {name: str(value) for name, value in env.items()}
    return run(sys.executable, "-m", "exo.main", *arguments, env=environment(home, given))
