"""`exo cluster`: certificates that say which machines belong together, and how this one stands."""

import asyncio
import datetime
import logging
import os
import platform
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from exo import commandline
from exo.cli import clusters, options
from exo.cli.running import cluster_body
from exo.errors import BadRequest, ExoError
from exo.nodes import Cluster

if TYPE_CHECKING:
    from exo.cluster.certificates import Bundle

log = logging.getLogger(__name__)

_SECRET = "EXO_CLUSTER_SECRET"


@click.group()
def cluster() -> None:
    """Make the nodes of a cluster prove that they belong to it.

    Nodes on one network find each other without any of this. With certificates, what they say to each other
    is encrypted, and a machine without one can neither join nor pass requests on.
    """


@cluster.command()
@click.option("--name", default="exo", show_default=True, help="What the certificates call the cluster.")
def init(name: str) -> None:
    """Begin a cluster with certificates: its CA, and this machine's own."""
    from exo.cluster import certificates

    folder = clusters.folder()
    if _is_in_use(folder):
        raise BadRequest(
            f"this machine has certificates already, in {folder}; exo cluster status shows them. To begin "
            "anew, take that folder away, and join all nodes again"
        )
    ca = certificates.make_ca(name)
    bundle = certificates.make_node_certificate(ca, [_own_name()])
    with _whole(folder) as new:
        certificates.write_ca(new, ca)
        certificates.install(bundle, new)
    click.echo(f"Cluster '{name}' is made; its certificates are in {folder}.")
    click.echo(
        "For each other machine, here:  exo cluster invite\n"
        "and there:                     exo cluster join FILE\n"
        "Then start exo again on all of them. Nodes without a certificate are left out from then on.\n"
        f"Keep {certificates.ca_files(folder).key} to yourself: whoever has it can let machines in."
    )


@cluster.command()
@click.argument("node", required=False)
@click.option(
    "--out",
    metavar="FILE",
    help="Where the bundle goes; - is standard output. [default: NODE.join.pem, here]",
)
def invite(node: str | None, out: str | None) -> None:
    """Let one more machine in: makes its certificate and key, to be taken there in one file.

    NODE is what the certificate calls it; without it, it gets a name of its own. Only the machine where
    `exo cluster init` was run can invite.
    """
    from exo.cluster import certificates

    ca = certificates.read_ca(clusters.folder())
    node = node or f"node-{secrets.token_hex(3)}"
    content = certificates.pack(certificates.make_node_certificate(ca, [node]))
    if out == "-":
        sys.stdout.buffer.write(content)
        return
    file = Path(out or f"{node}.join.pem")
    _write_new(file, content)
    click.echo(
        f"{file} lets one machine in. Take it there, run `exo cluster join {file.name}`, and remove it in "
        "both places: it has the machine's key in it."
    )


@cluster.command()
@click.argument("file", metavar="FILE")
def join(file: str) -> None:
    """Take this machine into the cluster that made FILE; - is standard input."""
    from exo.cluster import certificates

    bundle = _read_bundle(file)
    folder = clusters.folder()
    authority = certificates.ca_files(folder)
    # Without the certificate, the CA's key alone is some cluster's, too.
    theirs = authority.certificate.read_bytes() if authority.certificate.exists() else b""
    if (theirs or authority.key.exists()) and theirs != bundle.ca:
        raise BadRequest(f"this machine belongs to another cluster; to leave that one, take {folder} away")
    with _whole(folder) as new:
        # Of the same cluster: the CA's key stays, where it is here.
        for path in folder.iterdir() if folder.is_dir() else ():
            certificates.write_private(new / path.name, path.read_bytes())
        certificates.install(bundle, new)
    click.echo(
        "Joined. Start exo again on this machine, and remove the file: it has this machine's key in it."
    )


@cluster.command()
@options.url
@click.pass_context
def status(context: click.Context, url: str | None) -> None:
    """Show what this machine has to prove where it belongs, and whom a running node sees.

    Ends with status 1 if something is wrong.
    """
    from exo.cluster.credentials import inspect, problems_of_secret

    folder, secret = clusters.folder(), os.environ.get(_SECRET, "")
    has = inspect(folder, datetime.datetime.now(datetime.UTC))
    if has.until is not None:
        click.echo(f"certificates  {has.node}, of {has.ca}, until {has.until:%Y-%m-%d}, in {folder}")
        click.echo(
            f"the CA's key  {'here: this machine can invite' if has.can_invite else 'on another machine'}"
        )
    else:
        click.echo(f"certificates  {'not usable' if has.problems else 'none'}, in {folder}")
    click.echo(f"secret        {_SECRET} is {'set' if secret else 'not set'} where this command runs")
    click.echo(
        f"key           EXO_API_KEY is {'set' if commandline.key() else 'not set'} where this command runs"
    )
    click.echo(f"sees          {_who(has.until is not None, bool(secret))}")
    click.echo(f"running node  {_peers(url)}")
    problems = [*has.problems, *problems_of_secret(secret)]
    for problem in problems:
        click.echo(f"PROBLEM: {problem}")
    if problems:
        context.exit(1)


@cluster.command()
@click.option("--peer", multiple=True, metavar="HOST", help="Another router to connect to. May be repeated.")
@click.option(
    "--cluster-port",
    default=7447,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port to listen on, and that of other routers.",
)
def router(peer: tuple[str, ...], cluster_port: int) -> None:
    """Relay between nodes that are started with --router, until Ctrl-C or SIGTERM.

    For a cluster of more than some 80 nodes, or of several networks: have two routers or more, each but the
    first with the others as its --peer, and give all of them to every node. Only what nodes say of themselves
    goes this way; requests go straight from node to node. With the cluster's certificates on this machine,
    only nodes that have theirs can connect; a secret is the nodes' own affair.
    """
    from exo.cluster import discovery
    from exo.cluster.session import Router
    from exo.cluster.settings import ClusterSettings

    commandline.log_to_stderr()
    tls = clusters.certificates(clusters.folder())
    others = [discovery.address(each, cluster_port) for each in peer]
    stop = {signal.SIGINT, signal.SIGTERM}
    # Before there are other threads, which inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with closing(Router(ClusterSettings(port=cluster_port, discovery="none", tls=tls), others)):
        log.info("a router of clusters, on port %d", cluster_port)
        signal.sigwait(stop)


def _who(certified: bool, secret: bool) -> str:
    """Whom a node that is started with these sees, and is seen by."""
    needs = ["a certificate of this CA"] * certified + ["the same secret"] * secret
    if needs:
        return f"nodes of its cluster's name that have {' and '.join(needs)}"
    return (
        "all nodes of its cluster's name on this network: neither certificates nor a secret keep others out"
    )


def _peers(url: str | None) -> str:
    try:
        body = asyncio.run(cluster_body(url))
    except ExoError as error:
        return error.message
    found = msgspec.json.decode(body, type=Cluster)
    others = ", ".join(node.id for node in found.peers)
    return f"{found.me.id} sees {others or 'no other'}"


def _own_name() -> str:
    return platform.node() or "node"


# Files


def _is_in_use(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A new folder that only its owner reads, which takes the place of `folder` once it is filled. What root
    makes belongs to whom the place of the folder does: a service could not read it else. Raises `BadRequest`
    where it cannot be written; what is there stays then."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
            new, old = Path(beside, "new"), Path(beside, "old")
            new.mkdir(mode=0o700)
            yield new
            if os.geteuid() == 0:
                owner = folder.parent.stat()
                for path in (new, *new.iterdir()):
                    os.chown(path, owner.st_uid, owner.st_gid)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    except OSError as error:
        raise BadRequest(f"{error.filename or folder}: {error.strerror}") from error


def _write_new(file: Path, content: bytes) -> None:
    """A file only its owner reads. Raises `BadRequest` for one that is there, or cannot be."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as opened:
            opened.write(content)
    except FileExistsError as error:
        raise BadRequest(f"{file} is there already; name another one with --out") from error
    except OSError as error:
        raise BadRequest(f"{file}: {error.strerror}") from error


def _read_bundle(file: str) -> "Bundle":
    """Raises `BadRequest` naming the file."""
    from exo.cluster import certificates

    named = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return certificates.unpack(content)
    except OSError as error:
        raise BadRequest(f"{named}: {error.strerror}") from error
    except BadRequest as error:
        raise BadRequest(f"{named}: {error.message}") from error
