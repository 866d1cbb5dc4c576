"""nginx with `least_conn` in front of nodes, as its own process: what the cluster is compared with."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.cluster_nodes import Machines, free_ports
from exo.http.headers import HOP_HEADER, ROUTE_HEADER

# As its documentation has it for streams, so that it is not beaten by its defaults: nothing gathered before
# it is passed on, connections kept. One worker: several would each count for themselves. The hop header
# makes a node answer by itself, so that it is nginx alone that chooses.
_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid pid;
error_log stderr warn;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 100000;
    upstream nodes {{
        least_conn;
{servers}
        keepalive 64;
    }}
    server {{
        listen {address}:{port};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 120s;
            proxy_set_header Connection "";
            proxy_set_header {hop} nginx;
            proxy_hide_header {route};
            add_header {route} "$upstream_addr: nginx";
        }}
    }}
}}
"""


def missing() -> str | None:
    """Why nginx cannot be run; None if it can."""
    return None if _program() else "nginx is not installed (apt install nginx-light)"


@contextmanager
def front(machines: Machines, number: int, nodes: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """nginx on the machine of this number, before these nodes: where it listens."""
    program = _program()
    assert program is not None, "asked with `missing` before"
    port = free_ports(1)[0]
    nginx = machines.process(number, program, "-p", ".", "-c", "nginx.conf", "-e", "stderr")
    configuration = _CONFIGURATION.format(
        user="user root;" if os.geteuid() == 0 else "",
        servers="\n".join(f"        server {address}:{port};" for address, port in nodes),
        address=nginx.address,
        port=port,
        hop=HOP_HEADER,
        route=ROUTE_HEADER,
    )
    (nginx.home / "nginx.conf").write_text(configuration, encoding="ascii")
    try:
        nginx.start()
        nginx.connect(port).close()
        yield (nginx.address, port)
    finally:
        nginx.remove()


def _program() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
