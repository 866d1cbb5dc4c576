"""Ten thousand hostile requests to a node, or with --rkllama to the NPU server over its stand-in runtime.

Each has to end, none with the status 500 or a traceback, and the server has to be as it was: it answers, and
has let go of all files and processes. The same seed gives the same requests. Ends with 1 where that did not
hold.
"""

import argparse
import asyncio
import contextlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

import msgspec

from bench import hostile_bodies, hostile_clients, hostile_driver, hostile_http
from bench.client import Connection, chat, get
from bench.hostile_driver import BOUND, BOUND_STALLED, Held, Outcome
from bench.hostile_http import Attack
from bench.npu_board import MODEL, Board
from bench.report import Figure, Report, Table, machine, markdown, stop_on_sigterm
from bench.server import NodeProcess

_REQUESTS = 10_000
_SEED = 20_260
_QUESTION, _ANSWER = "What is 145 + 278?", "423"
# What allocators keep of the largest requests there are.
_MEMORY = 128 << 20
_SCRIPTS = {
    "hello.script.json": b'{"steps": [{"type": "text", "text": "Hello"}], "slots": 4}',
    "hangs.script.json": b'{"steps": [{"type": "text", "text": "a"}, {"type": "hang"}], "slots": 4}',
}
# How many do not wait for an answer before they say that nothing more comes.
_HASTY = 0.25
# What is right as HTTP, and how many of those an HTTP client sends.
_WHOLE, _BY_CLIENT = ("wrong value", "unknown key", "not JSON", "demanding"), 0.3
# What a healthy node never writes, and what explains it.
_DEFECT = re.compile(r"(?:.*\n)?.*(?:Traceback|defect of|was never)(?:.*\n){,40}")
# Nothing is looked for anywhere else: nobody listens there.
_NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Result(msgspec.Struct, frozen=True):
    """What came of it all. `faults` are in plain words; none is what is wanted."""

    outcomes: Sequence[Outcome]
    before: Held
    after: Held
    faults: Sequence[str]
    seconds: float


def attacks(document: Any, count: int, seed: int = _SEED) -> Iterator[Attack]:
    """So many, of all kinds; `document` is the server's description of itself."""
    random = Random(seed)
    makers = {**hostile_http.MAKERS, **hostile_clients.MAKERS, **hostile_bodies.makers(document)}
    for _ in range(count):
        [make] = random.choices([*makers], [*makers.values()])
        attack = make(random)
        if random.random() < _HASTY and attack.ending == "shut":
            attack = msgspec.structs.replace(attack, ending="half-close")
        by_client = attack.kind in _WHOLE and random.random() < _BY_CLIENT
        yield msgspec.structs.replace(attack, by_client=by_client)


def run(
    node: NodeProcess, model: str, count: int, seed: int = _SEED, beside: Sequence[Attack] = ()
) -> Result:
    """Attacks the node, whose `model` is the bundled one; `beside` are attacks that take long."""
    with contextlib.closing(node.connect()) as connection:
        document = json.loads(connection.ask(get("/openapi.json")))
        faults = _wrong_answer(connection, model)
    wanted = attacks(document, count + count // 10, seed)
    if model == MODEL:
        wanted = map(_for_npu, wanted)
    # What is loaded, imported and kept once is no leak.
    asyncio.run(hostile_driver.carry_out(node.port, islice(wanted, count // 10)))
    before = hostile_driver.settled(node.pid, hostile_driver.held(node.pid))
    began = time.perf_counter()
    outcomes = asyncio.run(hostile_driver.carry_out(node.port, wanted, beside))
    seconds = time.perf_counter() - began
    after = hostile_driver.settled(node.pid, before)
    faults += [each.fault for each in outcomes if each.fault]
    with contextlib.closing(node.connect()) as connection:
        faults += _wrong_answer(connection, model)
        faults += _still_under_way(connection)
    for name, more in (("files", hostile_driver.KEPT), ("children", 0)):
        if getattr(after, name) > getattr(before, name) + more:
            faults.append(f"{getattr(after, name)} {name}, and {getattr(before, name)} before")
    if after.memory - before.memory > _MEMORY:
        faults.append(f"{(after.memory - before.memory) >> 20} MiB more memory")
    faults += [f"in the log: {found[0][:4000]}" for found in _DEFECT.finditer(node.log)]
    return Result(outcomes, before, after, faults, seconds)


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each kind."""
    kinds: dict[str, list[Outcome]] = {}
    for each in outcomes:
        kinds.setdefault(each.kind, []).append(each)
    rows = [
        (kind, len(found), _statuses(found), max(each.seconds for each in found))
        for kind, found in kinds.items()
    ]
    return Table(("kind", "requests", "answers", "slowest, s"), tuple(sorted(rows)))


def _statuses(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(status for each in outcomes for status in each.statuses or (0,))
    said = [f"{count}x {status or 'closed'}" for status, count in sorted(counts.items())]
    return ", ".join(said)


def _wrong_answer(connection: Connection, model: str) -> list[str]:
    asked = chat(model, _QUESTION, temperature=0, max_tokens=16, enable_thinking=False)
    said = json.loads(connection.ask(asked))["choices"][0]["message"]["content"]
    return [] if _ANSWER in said else [f"{_QUESTION} is answered with {said!r}"]


def _still_under_way(connection: Connection) -> list[str]:
    me = json.loads(connection.ask(get("/v1/cluster")))["me"]
    running = sum(each["running"] for each in me["loaded"])
    return [f"{running} still run, {me['waiting']} wait"] if running or me["waiting"] else []


def _for_npu(attack: Attack) -> Attack:
    """The same for a server that has one model, by another name."""
    names = (b'"hello"', b'"exo-demo"', b'"hangs"')
    pieces = list(attack.pieces)
    for name in names:
        # Of the same length, so that no other length is to be told.
        pieces = [piece.replace(name, b'"demo"' + b" " * (len(name) - 6)) for piece in pieces]
    return msgspec.structs.replace(attack, pieces=tuple(pieces))


@contextlib.contextmanager
def server(npu: bool) -> Iterator[tuple[NodeProcess, str]]:
    with contextlib.ExitStack() as stack:
        if npu:
            board = stack.enter_context(Board())
            yield stack.enter_context(board.server(**_NOWHERE)), MODEL
        else:
            node = NodeProcess(models=_SCRIPTS, environment=_NOWHERE)
            yield stack.enter_context(node), "exo-demo"


def _report(result: Result, subject: str) -> Report:
    memory = [f"{held.memory / 1e6:.0f} MB" for held in (result.before, result.after)]
    rows = (
        ("before", result.before.files, result.before.children, result.before.threads, memory[0]),
        ("after", result.after.files, result.after.children, result.after.threads, memory[1]),
    )
    return Report(
        name=f"{subject} under hostile requests",
        method=(
            f"{len(result.outcomes):,} requests in {result.seconds:.0f} s over connections of their own, "
            "behind a tenth as many to warm up. Closed is a connection that ended without an answer."
        ),
        tables=(
            table(result.outcomes),
            Table(("the server's", "files", "children", "threads", "memory"), rows),
        ),
        figures=(
            Figure("faults", len(result.faults), 0, "", "at most"),
            Figure("slowest request", _slowest(result, stalled=False), BOUND, "s", "at most"),
            Figure("slowest that never came", _slowest(result, stalled=True), BOUND_STALLED, "s", "at most"),
        ),
    )


def _slowest(result: Result, *, stalled: bool) -> float:
    return max(each.seconds for each in result.outcomes if (each.kind == "stalled") is stalled)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rkllama", action="store_true", help="attack the NPU server")
    parser.add_argument("--requests", type=int, default=_REQUESTS, metavar="N")
    parser.add_argument("--seed", type=int, default=_SEED, metavar="N")
    options = parser.parse_args()
    stop_on_sigterm()
    with server(options.rkllama) as (node, model):
        result = run(node, model, options.requests, options.seed, hostile_clients.stalled())
    print(f"{machine()}\n\n{markdown(_report(result, 'The NPU server' if options.rkllama else 'A node'))}")
    for fault in result.faults:
        print(f"FAULT {fault}")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
