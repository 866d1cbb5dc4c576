"""nginx in front of three nodes, as deploy/nginx has it."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from .balancing import Balancing
from .fronts import (
    DEPLOY,
    Behind,
    Front,
    certificate,
    free_ports,
    program,
    substituted,
)

SHIPPED = DEPLOY / "nginx" / "exo.conf"
NODES = ("192.168.1.21:52415", "192.168.1.22:52415", "192.168.1.23:52415")
PORTS = ("52501", "52502", "52503")

# What Debian's nginx.conf says elsewhere, for a process without rights of its own in a folder of its own.
MAIN = """\
{user}
worker_processes 2;
pid nginx.pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include exo.conf;
}}
"""


def configured(folder: Path, nodes: Sequence[Behind], changes: Mapping[str, str]) -> tuple[list[str], int]:
    """The command that runs it in `folder`, and the port where it will listen."""
    made, key = certificate(folder)
    port, *ports = free_ports(4)
    places = {
        **{old: f"127.0.0.1:{node.port}" for old, node in zip(NODES, nodes, strict=True)},
        **{old: str(new) for old, new in zip(PORTS, ports, strict=True)},
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/nginx/exo.crt": str(made),
        "/etc/nginx/exo.key": str(key),
    }
    (folder / "exo.conf").write_text(substituted(SHIPPED, {**places, **changes}))
    main = folder / "nginx.conf"
    main.write_text(MAIN.format(user="user root;" if os.geteuid() == 0 else ""))
    return [program("nginx", "nginx"), "-p", str(folder), "-c", str(main), "-e", "stderr"], port


class TestNginx(Balancing):
    plain: ClassVar[Mapping[str, str]] = {
        " ssl so_keepalive": " so_keepalive",
        "    ssl_certificate ": "    # ssl_certificate ",
        "    ssl_certificate_key ": "    # ssl_certificate_key ",
        "    ssl_protocols ": "    # ssl_protocols ",
    }

    @classmethod
    def started(cls, folder: Path, nodes: Sequence[Behind], changes: Mapping[str, str]) -> Front:
        command, port = configured(folder, nodes, changes)
        command += ["-g", "daemon off;"]
        return Front(command, folder, port, signal.SIGHUP, tls=changes != cls.plain)

    def has_noticed(self, front: Front, number: int, state: str) -> None:
        """It asks before each request."""

    def has_reloaded(self, front: Front) -> None:
        front.says("gracefully shutting down")


class Nobody:
    port = 9


def test_nginx_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    command, _ = configured(tmp_path, [Nobody()] * 3, {})
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    assert "[emerg]" not in checked.stderr, checked.stderr


def test_every_node_is_in_all_three_lists() -> None:
    written = SHIPPED.read_text()
    for address, port in zip(NODES, PORTS, strict=True):
        assert written.count(f"{port} {address};") == 1
        assert written.count(f"server 127.0.0.1:{port} ") == 2
        assert written.count(f"listen 127.0.0.1:{port};") == 1
