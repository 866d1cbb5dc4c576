"""64 clients at once on the NPU server for a minute, while they hang up and its model's process dies."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo.sums import held_out_pairs
from tests.e2e.node import Wire, eventually, raw_chat
from tests.e2e.npu import Bench, NpuServer

CLIENTS = 64
SECONDS = 60.0
# What a request may end with while processes die: the answer, or a failure that says so.
FAILURES = {429, 502, 503, 504}
KEYS: dict[str, Any] = {"temperature": 0, "enable_thinking": False}


def said(server: NpuServer, question: str) -> str:
    content: str = server.chat("demo", question, **KEYS).json()["choices"][0]["message"]["content"]
    return content


class Client:
    """Asks one sum after another, each its own, and leaves some of them."""

    def __init__(self, server: NpuServer, number: int, sums: Sequence[tuple[str, str]], until: float) -> None:
        self._server, self._sums, self._until = server, sums, until
        self._random = random.Random(number)
        self.ended: Counter[int | str] = Counter()
        self.wrong: list[tuple[str, str, str]] = []

    def run(self) -> None:
        while time.monotonic() < self._until:
            question, expected = self._random.choice(self._sums)
            if self._random.random() < 0.25:
                self._hang_up(question)
                continue
            reply = self._server.chat("demo", question, **KEYS)
            self.ended[reply.status] += 1
            if reply.status == 200:
                content = reply.json()["choices"][0]["message"]["content"]
                if content != expected:
                    self.wrong.append((question, expected, content))

    def _hang_up(self, question: str) -> None:
        """At once, in the queue, in the middle of the answer, or as it ends."""
        with Wire(self._server) as wire:
            wire.send(raw_chat("demo", question, stream=True, **KEYS))
            time.sleep(self._random.choice([0, 0.01, 0.1, 0.5]))
        self.ended["hung up"] += 1


def disturb(server: NpuServer, fault: Path, until: float) -> Counter[str]:
    """Lets the model's process crash, kills it, and once stops it, so that it hangs."""
    chance, done = random.Random(0), Counter[str]()
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.5, 2))
        with contextlib.suppress(IndexError, ProcessLookupError):
            if done["hang"] == 0 and time.monotonic() > until - SECONDS / 2:
                os.kill(server.children()[0], signal.SIGSTOP)
                done["hang"] += 1
            elif chance.random() < 0.5:
                os.kill(server.children()[0], signal.SIGKILL)
                done["kill"] += 1
            else:
                fault.touch()
                done["crash"] += 1
    fault.unlink(missing_ok=True)
    return done


def test_nobody_gets_anothers_text_and_nothing_is_left_over(
    tmp_path: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    bench = Bench(tmp_path, build, file_for, "1.2.3")
    bench.put(modelfile="TEMPERATURE=0\nTIMEOUT=2\n")
    fault = tmp_path / "fault"
    server = bench.start(
        "--max-waiting", "48", env={"STANDIN_FAULT": "crash-decode:4", "STANDIN_FAULT_ONCE": str(fault)}
    )
    try:
        questions = [f"What is {a} + {b}?" for a, b in held_out_pairs(CLIENTS, 23)]
        known = [(question, said(server, question)) for question in questions]
        assert len({answer for _, answer in known}) > CLIENTS * 3 / 4
        before = server.metric("rkllm_process_resident_bytes", process="server")
        until = time.monotonic() + SECONDS
        clients = [Client(server, number, known, until) for number in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            disturbed = pool.submit(disturb, server, fault, until)
            for running in [pool.submit(client.run) for client in clients]:
                running.result()
            faults = disturbed.result()
        ended = sum((client.ended for client in clients), Counter[int | str]())
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert set(ended) <= {200, "hung up"} | FAILURES, ended
        assert min(faults["kill"], faults["crash"], faults["hang"]) > 0, faults
        assert ended[200] > 20 * (faults.total()), (ended, faults)

        eventually(lambda: (server.running(), server.waiting()) == (0, 0))
        assert said(server, known[0][0]) == known[0][1]
        assert len(server.children()) == 1
        grown = server.metric("rkllm_process_resident_bytes", process="server") - before
        assert grown < 24 << 20, f"{grown / 1e6:.1f} MB more than before"
        assert threading.active_count() < 16
        last = server.children()
        server.stop()
        for child in last:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 0)
                raise AssertionError(f"process {child} is left over")
    finally:
        server.kill()
