"""A cluster at work, as its owner sees it in a terminal: real nodes, real answers and a real download.

`python -m tests.terminal.picture docs/images/panel.svg` makes the picture of it for the documentation.
"""

import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from exo.store.catalogue import BUNDLED
from exo.terminal.paint import svg
from tests.cluster.hosts import Host, Hosts
from tests.cluster.machines import PORT, Exo, inside
from tests.e2e.node import Wire, environment, fail, raw_chat, text, wait, write_script
from tests.store.mirror import Mirror
from tests.terminal.emulator import Terminal

COLUMNS, ROWS = 104, 30
_ROW = re.compile(r"\x1b\[(\d+);1H\x1b\[2K(.*?)(?=\x1b\[\d+;1H|\x1b\[\?|\x1b\[2J|\Z)", re.DOTALL)

T = TypeVar("T")


@contextlib.asynccontextmanager
async def cluster_at_work(hosts: Hosts, folder: Path) -> AsyncIterator[Terminal]:
    """Two `hosts` at work: one answers in a terminal, while it downloads; the other one answers, too."""
    story: Sequence[object] = [text("Once"), *[wait(0.07), text(" upon")] * 2000]
    ours, theirs = folder / "ours", folder / "theirs"
    write_script(ours, "writer-7b", story, slots=2)
    write_script(ours, "broken", [fail("the wheel came off")])
    write_script(theirs, "translator-3b", story, slots=4)
    mirror = Mirror()
    mirror.files = {"tiny.gguf": (BUNDLED / "exo-demo" / "model.gguf").read_bytes()}
    mirror.held = {"tiny.gguf": asyncio.Event()}
    async with contextlib.AsyncExitStack() as stack:
        here, there = hosts
        with inside(here):
            await stack.enter_async_context(mirror.running())
        hub = {"HF_ENDPOINT": mirror.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "", "NO_PROXY": "*"}
        peer = await elsewhere(lambda: Exo(there, theirs, "--node-id", "rock-2"))
        stack.callback(peer.kill)
        usual = {
            name: value for name, value in environment(ours, hub).items() if name not in ("CI", "NO_COLOR")
        }
        command = [sys.executable, "-m", "exo.main", "--node-id", "rock-1", "--wait-for-peers", "1"]
        with inside(here):
            terminal = Terminal(command, {**usual, "TERM": "xterm-256color"}, COLUMNS, ROWS)
        stack.callback(terminal.__exit__, None, None, None)
        await elsewhere(lambda: terminal.until_shows("rock-2", "NODES 2", "ready"))
        asked = Asked(here)
        for question in ("What is 145 + 278?", "What is 12 + 7?"):
            await elsewhere(partial(asked.chat, "exo-demo", question))
        await elsewhere(partial(asked.chat, "broken"))
        await elsewhere(partial(asked.request, "POST", "/download", {"model": "user/tiny:tiny.gguf"}))
        for model in ("translator-3b", "writer-7b", "writer-7b", "writer-7b"):
            with inside(here):
                stack.enter_context(Wire(asked)).send(raw_chat(model, stream=True))
        at_work = re.compile(r"writer-7b .* 2 +1 +[12]\d\.\d")
        await elsewhere(lambda: terminal.until(lambda shown: bool(at_work.search(shown))))
        await elsewhere(lambda: terminal.until_shows("MB of 5.0 MB", "2 answered, 1 failed"))
        yield terminal


class Asked(Exo):
    """The node that runs on the host already."""

    def __init__(self, host: Host) -> None:
        self.host, self.port, self._key = host, PORT, None


def picture(terminal: Terminal) -> str:
    """What is to be seen in it, as SVG."""
    rows = dict.fromkeys(range(1, ROWS + 1), "")
    rows |= {int(row): line for row, line in _ROW.findall(terminal.sent.decode())}
    return svg([Text.from_ansi(rows[row]) for row in sorted(rows)], COLUMNS, "exo")


async def elsewhere(work: Callable[[], T]) -> T:
    """Its result, while the hub of this loop serves."""
    return await asyncio.to_thread(work)


async def made() -> str:
    with tempfile.TemporaryDirectory() as folder, Hosts(2) as hosts:
        async with cluster_at_work(hosts, Path(folder)) as terminal:
            return picture(terminal)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(asyncio.run(made()))
