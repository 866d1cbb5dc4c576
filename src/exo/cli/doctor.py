"""`exo doctor`: what is wrong with this machine as a node, and what would mend it."""

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from exo import commandline
from exo.cli import options
from exo.cli.upstreams import server_url
from exo.configuration.noted import Faulty

if TYPE_CHECKING:
    from exo.doctor.gather import Scope


@click.command()
@options.url
@click.option("--peer", multiple=True, metavar="HOST", help="A node that should be there. May be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print findings and evidence as JSON, for a report.")
@click.pass_context
def doctor(context: click.Context, url: str | None, peer: tuple[str, ...], as_json: bool) -> None:
    """Find out what is wrong with this machine, its node and its models.

    Looks at packages, disk, memory, ports, the network, model files, secrets, configuration and environment,
    and asks the running node, if there is one, about itself and its peers. On a board with an NPU, what
    rkllama doctor finds is in it, too. It changes nothing, asks nobody else but the servers and nodes that
    are configured, and takes five seconds at most. Ends with status 1 if something is broken.
    """
    from exo.doctor.examine import examine
    from exo.doctor.finding import status
    from exo.doctor.gather import gather
    from exo.doctor.page import show

    # What the catalogue logs of files that are no models is a finding here.
    logging.getLogger("exo").addHandler(logging.NullHandler())
    evidence = asyncio.run(gather(_scope(url, peer)))
    findings = examine(evidence)
    if as_json:
        click.echo(msgspec.json.encode({"findings": findings, "evidence": evidence}))
    else:
        show(findings)
    context.exit(status(findings))


def _scope(url: str | None, peers: tuple[str, ...]) -> "Scope":
    """What is configured here, or only what needs no configuration where that cannot be used."""
    from exo.cli.serve import node_settings
    from exo.doctor.gather import Scope

    environment, unknown = dict(os.environ), _unknown()
    if url is not None:
        url = server_url(url)
    try:
        settings, cluster = node_settings(options.configured())
        asked = options.asked(url)
        home = options.home()
    except click.ClickException as error:
        home = Path(os.environ.get("EXO_HOME") or "~/.cache/exo").expanduser()
        return Scope(
            home=home,
            folders=(home / "models",),
            url=url or options.LOCAL_URL,
            asked_for=url is not None,
            key=commandline.key(),
            secret=os.environ.get("EXO_CLUSTER_SECRET", ""),
            environment=environment,
            unknown=unknown,
            faults=error.problems if isinstance(error, Faulty) else (error.message,),
            named=peers,
        )
    return Scope(
        home=home,
        folders=settings.folders,
        host=settings.http.host,
        url=asked.url,
        asked_for=url is not None,
        key=asked.key,
        trust=asked.tls,
        tls=settings.http.tls,
        secret=(cluster.secret or b"").decode(),
        environment=environment,
        unknown=unknown,
        cluster_port=cluster.port,
        named=(*cluster.peers, *peers),
        routers=cluster.routers,
        manual_file=cluster.manual_file,
        servers=settings.upstreams,
        memory=settings.memory,
        slots=settings.slots,
        context=settings.context or 0,
    )


def _unknown() -> tuple[str, ...]:
    """What is wrong with the names of the environment's own variables, each of which keeps every other
    command from running."""
    complaints = []
    for name, value in os.environ.items():
        try:
            options.check_environment({name: value})
        except click.UsageError as error:
            complaints.append(error.message)
    return tuple(complaints)
