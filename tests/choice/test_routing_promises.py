"""What holds of every choice, and of many in a row."""

import heapq
import random
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exo.cards import ModelCard
from exo.choice.routing import Asked, Route, choose, explain
from exo.errors import ExoError
from exo.nodes import Cluster, Device, Node, Prefix, Residence, Speed
from tests.doubles import card

MODELS = ("a", "b", "c")


@st.composite
def nodes(draw: st.DrawFn, id: str, measured: bool) -> Node:
    """Any node with up to three models and a memory of 6."""
    often = st.sampled_from([True, True, True, False])
    cards = tuple(card(model, memory=draw(st.integers(0, 7))) for model in MODELS if draw(often))
    loaded = []
    for model in draw(st.sets(st.sampled_from(MODELS))):
        slots = draw(st.integers(1, 4))
        loaded.append(
            Residence(
                model=model,
                state=draw(st.sampled_from(["loading", "ready", "leaving"])),
                bytes=draw(st.integers(0, 4)),
                slots=slots,
                running=draw(st.integers(0, slots)),
                waiting=draw(st.integers(0, 3)),
                used=draw(st.integers(0, 9)),
                idle=draw(st.none() | st.floats(0, 120)),
            )
        )
    rates = st.floats(1, 1000) if measured else st.just(0.0) | st.floats(1, 1000)
    return Node(
        id=id,
        url="",
        version="0",
        device=Device(name=id, cores=1, memory=1, chip=draw(st.sampled_from(["", "x", "y"]))),
        cards=cards,
        loaded=tuple(loaded),
        waiting=sum(r.waiting for r in loaded) + draw(st.integers(0, 2)),
        queue=draw(st.integers(5, 20)),
        budget=6,
        speeds=tuple(
            Speed(model=model, prefill=draw(rates), decode=draw(rates), load=draw(rates), answer=50.0)
            for model in MODELS
        ),
        prefixes=tuple(Prefix(model, tuple(draw(st.sets(st.integers(0, 3))))) for model in MODELS),
        leaving=draw(st.sampled_from([False] * 5 + [True])),
    )


@st.composite
def clusters(draw: st.DrawFn, measured: bool = False) -> Cluster:
    first, *others = [draw(nodes(f"n{i}", measured)) for i in range(draw(st.integers(1, 5)))]
    return Cluster(me=first, peers=tuple(others))


SENT = st.dictionaries(st.sampled_from([f"n{i}" for i in range(5)]), st.integers(0, 9))
ASKED = st.builds(
    Asked,
    model=st.sampled_from(MODELS),
    prompt=st.integers(400, 4000),
    answer=st.none() | st.integers(1, 500),
    prefixes=st.just((0, 1, 2, 3)),
    prefix_tokens=st.just((10, 50, 200, 400)),
)


def routes(
    wanted: Asked,
    there: Cluster,
    sent: dict[str, int],
    counted: dict[str, int],
    without: tuple[str, ...] = (),
) -> tuple[Route, ...]:
    try:
        return explain(wanted, there, sent=sent, counted=counted, without=without)
    except ExoError:
        return ()


def winner(found: Sequence[Route]) -> str:
    return found[0].node.id if found else ""


def seconds(found: Sequence[Route], id: str) -> float:
    return next((route.seconds for route in found if route.node.id == id), float("inf"))


def every(there: Cluster) -> dict[str, Node]:
    return {node.id: node for node in (there.me, *there.peers)}


def changed(there: Cluster, node: Node) -> Cluster:
    now = {**every(there), node.id: node}
    return Cluster(me=now[there.me.id], peers=tuple(now[peer.id] for peer in there.peers))


def can_serve(node: Node, card: ModelCard) -> bool:
    inside = [r for r in node.loaded if r.model == card.id and r.state != "leaving"]
    waiting = node.waiting if card.memory else sum(r.waiting for r in inside)
    fits = bool(inside) or card.memory <= node.budget
    return not node.leaving and waiting < node.queue and fits


@given(ASKED, clusters(), SENT, SENT)
def test_only_nodes_that_can_serve_are_candidates_and_the_first_is_chosen(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int]
) -> None:
    able = {
        node.id
        for node in every(there).values()
        for card in node.cards
        if card.id == wanted.model and can_serve(node, card)
    }
    assert {route.node.id for route in routes(wanted, there, {}, {})} == able
    found = routes(wanted, there, sent, counted)
    assert {route.node.id for route in found} <= able
    for route in found:
        assert route.card in route.node.cards
        assert route.card.id == wanted.model
        assert 0 < route.seconds < float("inf")
    if found:
        assert choose(wanted, there, sent=sent, counted=counted) == found[0]


@given(ASKED, clusters(), SENT, SENT, st.data())
def test_one_more_request_never_makes_a_node_better(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int], data: st.DataObject
) -> None:
    before = routes(wanted, there, sent, counted)
    node = data.draw(st.sampled_from(list(every(there).values())))
    # One that waits for a model in memory, for one that is not, or one that only we know of.
    where = data.draw(st.sampled_from([*range(len(node.loaded)), "elsewhere", "sent"]))
    if where == "sent":
        after = routes(wanted, there, {**sent, node.id: sent.get(node.id, 0) + 1}, counted)
    else:
        loaded = tuple(replace(r, waiting=r.waiting + (at == where)) for at, r in enumerate(node.loaded))
        fuller = replace(node, loaded=loaded, waiting=node.waiting + 1)
        after = routes(wanted, changed(there, fuller), sent, counted)
    assert seconds(after, node.id) >= seconds(before, node.id) * (1 - 1e-12)
    if winner(before) != node.id:
        assert winner(after) == winner(before)


@given(ASKED, clusters(), SENT, SENT)
def test_a_loser_left_out_changes_nothing(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int]
) -> None:
    found = routes(wanted, there, sent, counted)
    for loser in found[1:]:
        rest = tuple(route for route in found if route != loser)
        assert routes(wanted, there, sent, counted, (loser.node.id,)) == rest


@given(ASKED, clusters(measured=True), SENT, SENT)
def test_a_loser_that_is_gone_changes_nothing(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int]
) -> None:
    found = routes(wanted, there, sent, counted)
    for loser in found[1:]:
        rest = replace(there, peers=tuple(peer for peer in there.peers if peer != loser.node))
        assert winner(routes(wanted, rest, sent, counted)) == winner(found)


@given(ASKED, clusters(), SENT, SENT, st.randoms(use_true_random=False))
def test_the_order_of_peers_changes_nothing(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int], random: random.Random
) -> None:
    peers = random.sample(there.peers, len(there.peers))
    assert routes(wanted, replace(there, peers=tuple(peers)), sent, counted) == routes(
        wanted, there, sent, counted
    )


@given(ASKED, clusters(), SENT, SENT, st.data())
def test_more_of_the_conversation_in_its_cache_never_makes_a_node_worse(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int], data: st.DataObject
) -> None:
    before = routes(wanted, there, sent, counted)
    node = data.draw(st.sampled_from(list(every(there).values())))
    more = Prefix(wanted.model, (data.draw(st.integers(0, 3)),))
    after = routes(wanted, changed(there, replace(node, prefixes=(*node.prefixes, more))), sent, counted)
    assert seconds(after, node.id) <= seconds(before, node.id)
    assert winner(after) in (winner(before), node.id)


@given(ASKED, clusters(measured=True), SENT, SENT)
def test_half_the_speed_takes_twice_the_time(
    wanted: Asked, there: Cluster, sent: dict[str, int], counted: dict[str, int]
) -> None:
    def slower(node: Node) -> Node:
        speeds = tuple(
            replace(s, prefill=s.prefill / 2, decode=s.decode / 2, load=s.load * 2) for s in node.speeds
        )
        return replace(node, speeds=speeds)

    fast = routes(wanted, there, sent, counted)
    slow = routes(wanted, Cluster(me=slower(there.me), peers=tuple(map(slower, there.peers))), sent, counted)
    assert {route.node.id for route in slow} == {route.node.id for route in fast}
    for route in slow:
        hop = 0.002 * (route.node.id != there.me.id)
        assert route.seconds - hop == pytest.approx(2 * (seconds(fast, route.node.id) - hop))


class Board:
    """A simulated node that holds one model at a time and answers one request after the other."""

    def __init__(self, id: str, pace: float, models: Sequence[str]) -> None:
        speeds = tuple(
            Speed(model=model, prefill=300.0, decode=16.0 * pace, load=6.0, answer=128.0) for model in models
        )
        device = Device(name=id, cores=8, memory=8, kind="rockchip", chip="RK3588")
        cards = tuple(card(model, memory=4, format="rkllm") for model in models)
        self.node = Node(
            id=id,
            url="",
            version="0",
            device=device,
            cards=cards,
            loaded=(),
            waiting=0,
            budget=4,
            speeds=speeds,
        )
        self.pace = pace
        self.queue: list[tuple[str, float, int]] = []  # model, seconds and client of each request
        self.model = ""
        self.used = 0.0
        self.busy = 0.0
        self.answers = 0
        self.loads = 0
        self.states = deque([(-1e9, self.node)], maxlen=50)

    def start(self, now: float, until: float) -> float:
        """Begins with the first of the queue; when it will have ended."""
        model, taken, _ = self.queue[0]
        load = 0.0 if model == self.model else 6.0
        self.loads += load > 0
        self.model = model
        end = now + load + taken
        self.busy += min(end, until) - now
        return end

    def changed(self, now: float) -> None:
        loaded: tuple[Residence, ...] = ()
        if self.model:
            mine = sum(model == self.model for model, _, _ in self.queue)
            running = min(1, len(self.queue))
            idle = None if running else now - self.used
            loaded = (
                Residence(
                    model=self.model,
                    state="ready",
                    bytes=4,
                    slots=1,
                    running=running,
                    waiting=max(0, mine - running),
                    idle=idle,
                ),
            )
        waiting = max(0, len(self.queue) - 1)
        self.states.append((now, replace(self.node, loaded=loaded, waiting=waiting)))

    def state(self, when: float) -> Node:
        since, then = next(state for state in reversed(self.states) if state[0] <= when)
        return replace(
            then, loaded=tuple(replace(r, idle=None if r.running else when - since) for r in then.loaded)
        )


def simulate(
    boards: Sequence[Board],
    clients: int,
    entries: int,
    until: float,
    *,
    pause: float = 0.0,
    counting: bool = False,
) -> None:
    """Each client asks, through an entry of its own, for a model of its own, waits for the answer, and asks
    again after a pause. An entry knows itself at once, and the others as they were a second ago; if it is
    `counting`, it also remembers what of that was its own."""
    luck = random.Random(5)
    by_id = {board.node.id: board for board in boards}
    sent = [dict.fromkeys(by_id, 0) for _ in range(entries)]
    sent_then = [deque([(-1e9, now)]) for now in sent]
    models = [card.id for card in boards[0].node.cards]
    due = [(pause * client / clients, client, "") for client in range(clients)]
    while due[0][0] < until:
        now, client, ended = heapq.heappop(due)
        entry = client % entries
        if ended:
            board, change = by_id[ended], -1
            board.queue.pop(0)
            board.answers += 1
            board.used = now
            heapq.heappush(due, (now + pause, client, ""))
        else:
            begun = luck.getrandbits(63)
            wanted = Asked(
                model=models[client % len(models)], prompt=40, prefixes=(begun,), prefix_tokens=(40,)
            )
            me = boards[entry]
            peers = tuple(board.state(now - 1.0) for board in boards if board is not me)
            while len(sent_then[entry]) > 1 and sent_then[entry][1][0] <= now - 1.0:
                sent_then[entry].popleft()
            counted = {**sent_then[entry][0][1]} if counting else {}
            counted.pop(me.node.id, None)
            there = Cluster(me=me.state(now), peers=peers)
            route = choose(wanted, there, sent=sent[entry], counted=counted)
            board, change = by_id[route.node.id], 1
            board.queue.append((wanted.model, luck.uniform(4.0, 12.0) / board.pace, client))
        sent[entry] = {**sent[entry], board.node.id: sent[entry][board.node.id] + change}
        sent_then[entry].append((now, sent[entry]))
        if board.queue and (ended or len(board.queue) == 1):
            heapq.heappush(due, (board.start(now, until), board.queue[0][2], board.node.id))
        board.changed(now)


@pytest.mark.parametrize(("entries", "share"), [(1, 0.97), (2, 0.90)])
def test_eight_boards_are_kept_busy(entries: int, share: float) -> None:
    boards = [Board(f"board-{i}", 1.0, ["m"]) for i in range(8)]
    simulate(boards, 32, entries, 2000.0)
    assert min(board.busy for board in boards) >= share * 2000.0


@pytest.mark.parametrize("entries", [1, 2])
def test_a_client_for_each_board_keeps_all_busy_if_we_know_which_of_them_are_ours(entries: int) -> None:
    boards = [Board(f"board-{i}", 1.0, ["m"]) for i in range(8)]
    simulate(boards, 8, entries, 2000.0, counting=True)
    assert min(board.busy for board in boards) >= 0.95 * 2000.0


def test_a_board_three_times_as_fast_gets_three_times_as_much() -> None:
    boards = [Board(f"board-{i}", 3.0 if i == 5 else 1.0, ["m"]) for i in range(8)]
    simulate(boards, 32, 1, 2000.0)
    best = 2000.0 / 8.0 * 10.0
    assert sum(board.answers for board in boards) >= 0.95 * best


def test_two_models_that_take_turns_end_up_on_two_boards() -> None:
    boards = [Board(f"board-{i}", 1.0, ["one", "two"]) for i in range(2)]
    simulate(boards, 2, 1, 2000.0, pause=40.0)
    assert [board.loads for board in boards] == [1, 1]
    assert min(board.answers for board in boards) > 30
