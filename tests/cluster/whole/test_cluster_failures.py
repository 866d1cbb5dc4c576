"""A node that ends in the middle of its answers: their clients read one whole answer each."""

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cluster.machines import Exo, Lan, Machine, Stream, node_of, seconds
from tests.cluster.nodes import took
from tests.e2e.node import Reply, eventually, text, write_script

WORDS = [f"{number} wörds, " for number in range(60)]
WHOLE = "".join(WORDS)
PACE = 0.04
# A node that is cut off is silent for two seconds before it is given up; then another one answers within one.
CUT = 3.0
STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])


class Counting:
    """An entry without the model, and three nodes that have it and take 2.4 s for an answer."""

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.entrance = lan.machine("entry", "--inference-engine", "dummy")
        self.servers = [lan.machine(name, "--inference-engine", "dummy") for name in ("one", "two", "three")]
        for server in self.servers:
            write_script(server.home, "count", [text(word) for word in WORDS], pace=PACE, slots=4)
        self.entry: Exo = lan.start()[0]
        for server in self.servers:
            # Loaded, so that the first answers come from whichever node is the nearest to idle.
            server.exo.ask("count", max_tokens=1)

    def serving(self) -> Machine:
        """The one that is answering, once one is."""
        found: list[Machine] = []

        def one_is() -> bool:
            found[:] = [server for server in self.servers if server.exo.running()]
            return bool(found)

        eventually(one_is)
        return found[0]

    def named(self, name: str) -> Machine:
        return next(server for server in self.servers if server.exo.id == name)


@pytest.fixture
def counting(lan: Lan) -> Counting:
    return Counting(lan)


def under_way(counting: Counting, streamed: bool, pool: ThreadPoolExecutor) -> tuple[Machine, Future[str]]:
    """An answer that has begun, on which node, and its text to be."""
    if not streamed:
        said = pool.submit(counting.entry.ask, "count")
        server = counting.serving()
        # Its first words have come to the entry.
        eventually(lambda: counting.entry.metric("exo_first_token_latency_seconds_count", model="count") == 1)
        return server, said

    stream = Stream(counting.entry, "count")
    stream.until("5 wörds, ")

    def rest() -> str:
        with stream:
            return stream.rest()

    return counting.named(stream.node), pool.submit(rest)


@STREAMED
def test_a_killed_node_is_not_noticed_by_the_client(counting: Counting, streamed: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        server, said = under_way(counting, streamed, pool)
        server.kill()
        killed = time.monotonic()
        assert said.result() == WHOLE
    took("answer in spite of a kill", len(WORDS) * PACE + 1.0, time.monotonic() - killed)
    assert (counting.entry.failovers("within"), counting.entry.failovers("before")) == (1, 0)
    # The others know at once, and it is welcome again.
    counting.entry.sees(*(other.exo for other in counting.servers if other is not server))
    server.start()
    counting.entry.sees(*(other.exo for other in counting.servers))


@STREAMED
def test_a_node_that_is_cut_off_is_given_up_in_two_seconds(counting: Counting, streamed: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        server, said = under_way(counting, streamed, pool)
        counting.lan.hosts.cut(server.host)
        cut = time.monotonic()
        assert said.result() == WHOLE
    took("answer in spite of a cut", CUT + len(WORDS) * PACE, time.monotonic() - cut)
    assert (counting.entry.failovers("within"), counting.entry.failovers("before")) == (1, 0)


def test_a_request_right_after_a_cut_is_answered_elsewhere(counting: Counting) -> None:
    """Before anybody has noticed it."""
    with ThreadPoolExecutor(12) as pool:
        counting.lan.hosts.cut(counting.servers[0].host)
        asked = [pool.submit(seconds, lambda: counting.entry.ask("count", max_tokens=3)) for _ in range(12)]
        times = [each.result() for each in asked]
    took("the slowest of twelve right after a cut", CUT, max(times))


def test_a_node_that_is_told_to_leave_ends_its_answers_and_gets_no_new_ones(counting: Counting) -> None:
    entry = counting.entry
    with Stream(entry, "count") as stream:
        stream.until("5 wörds, ")
        leaving = counting.named(stream.node)
        leaving.exo.signal(signal.SIGTERM)
        leaving.exo.line("stopping")
        replies: list[Reply] = []
        each = [seconds(lambda: replies.append(entry.chat("count", max_tokens=3))) for _ in range(8)]
        assert leaving.exo.process.poll() is None
        assert {reply.status for reply in replies} == {200}
        assert leaving.exo.id not in {node_of(reply) for reply in replies}
        took("the slowest beside one that leaves", 1, max(each))
        assert stream.rest() == WHOLE
    assert entry.failovers("within") == 0
    assert leaving.exo.exit_code() == 0


def test_when_all_that_have_the_model_are_gone_it_is_said(counting: Counting) -> None:
    with Stream(counting.entry, "count") as stream:
        stream.until("5 wörds, ")
        for server in counting.servers:
            server.kill()
        while stream.more():
            pass
        assert not stream.done
        assert stream.error is not None
        assert WHOLE.startswith(stream.said)
    reply = counting.entry.chat("count")
    assert reply.status in (404, 503), reply
