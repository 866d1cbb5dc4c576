"""What a session promises to the loop it hands over to."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from exo.cluster.network import place
from exo.cluster.session import Session
from exo.cluster.settings import ClusterSettings

SLOW = 0.05


class Loop(asyncio.SelectorEventLoop):
    """One that takes its time to be handed something, and notes what comes once it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[object] = []
        self.reached = threading.Event()

    def call_soon_threadsafe(  # type: ignore[override]  # typeshed has it generic
        self, callback: Callable[..., object], *args: Any, **options: Any
    ) -> Any:
        self.reached.set()
        time.sleep(SLOW)
        if self.is_closed():
            return self.late.append(callback)
        return super().call_soon_threadsafe(callback, *args, **options)


def session(loop: asyncio.AbstractEventLoop, *addresses: str) -> tuple[Session, str]:
    """A session and its address."""
    here = place((0,), ())
    settings = ClusterSettings(discovery="none")
    opened = Session(settings, here, addresses, loop, lambda id, state: None, lambda id, life, there: None)
    return opened, here.endpoints[0]


def test_nothing_is_handed_over_to_a_loop_that_is_closed_after_the_session() -> None:
    loop, other = Loop(), asyncio.new_event_loop()
    one, address = session(loop)
    two, _ = session(other, address)
    with closing(other), closing(two):
        two.appear("two", "1")
        assert loop.reached.wait(10)
        # A thread of Zenoh is in the middle of it.
        one.close()
        loop.close()
        time.sleep(2 * SLOW)
        assert loop.late == []
