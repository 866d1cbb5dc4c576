"""A program that is a node of a cluster and nothing else: `python -m tests.cluster.node ID SETTINGS`, these
as `encode` makes them.

Prints a JSON object a line: that
it has joined, and whenever its peers change who they are, each with the time of the clock that all processes
of the machine share. It leaves when its standard input ends, or at SIGTERM.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

import msgspec

from exo.cluster.membership import Membership
from exo.cluster.settings import ClusterSettings
from exo.errors import ExoError
from exo.nodes import Device, Node


def node(id: str, waiting: int = 0) -> Node:
    """A node as small as can be, for whoever wants one."""
    device = Device(name="test", cores=1, memory=1 << 30)
    url = f"http://{id}:52415"
    return Node(id=id, url=url, version="0", device=device, cards=(), loaded=(), waiting=waiting)


def encode(settings: ClusterSettings) -> str:
    """As the program takes them."""
    return msgspec.json.encode(settings, enc_hook=str).decode()


def decode(text: str) -> ClusterSettings:
    return msgspec.json.decode(text, type=ClusterSettings, dec_hook=lambda kind, value: kind(value))


def say(**what: object) -> None:
    print(json.dumps({"at": time.monotonic(), **what}), flush=True)


async def live(id: str, how: ClusterSettings) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(0, lambda: None if os.read(0, 4096) else over.set())
    before: list[str] = []

    def changed(peers: Sequence[Node]) -> None:
        nonlocal before
        ids = [peer.id for peer in peers]
        if ids != before:
            before = ids
            say(peers=ids)

    membership = Membership(how, lambda: node(id), changed)
    try:
        say(peers=[])
        await membership.start()
        say(joined=membership.port)
        await over.wait()
    except ExoError as error:
        say(failed=error.message)
    finally:
        await membership.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(live(sys.argv[1], decode(sys.argv[2])))
