import subprocess
import sys

import pytest
from msgspec.structs import replace

from exo.chat import ChatRequest, Message, Sampling, SoFar, Tool, ToolCall
from exo.choice.routing import Asked, asked, choose, explain, prefixes
from exo.errors import ModelNotFound, NotReady, Overloaded
from exo.nodes import Cluster, Device, Node, Prefix, Residence, Speed
from tests.doubles import card

PACE = {"prefill": 100.0, "decode": 10.0, "load": 5.0, "answer": 50.0}
"""Of every model: reads 100 tokens in a second, and writes its answer of 50 in five."""


FOLLOW_UP = Asked(model="m", prompt=400, prefixes=(1, 2), prefix_tokens=(300, 400))


def cluster(*models: str) -> Cluster:
    return Cluster(me=node("me", *models, budget=0))


def node(
    id: str,
    *models: str,
    loaded: tuple[Residence, ...] = (),
    waiting: int = 0,
    budget: int = 1,
    **rest: object,
) -> Node:
    return Node(
        id=id,
        url=f"http://{id}",
        version="0",
        device=Device(name="d", cores=1, memory=1, kind="rockchip", chip="RK3588"),
        cards=tuple(card(model, format="rkllm") for model in models),
        loaded=loaded,
        waiting=waiting,
        budget=budget,
        **{"speeds": tuple(Speed(model=model, **PACE) for model in models), **rest},  # type: ignore[arg-type]
    )


def ready(
    model: str,
    *,
    running: int = 0,
    waiting: int = 0,
    used: int = 0,
    idle: float | None = None,
    slots: int = 1,
) -> Residence:
    return Residence(
        model=model,
        state="ready",
        bytes=1,
        slots=slots,
        running=running,
        waiting=waiting,
        used=used,
        idle=idle,
    )


def test_the_reasons_are_in_plain_words_with_numbers() -> None:
    holder = node(
        "board-2",
        "qwen",
        loaded=(ready("qwen", running=1, waiting=2),),
        waiting=2,
        prefixes=(Prefix("qwen", (7, 8)),),
    )
    wanted = Asked(model="qwen", prompt=1236, answer=20, prefixes=(7, 8, 9), prefix_tokens=(9, 1024, 1236))
    route = choose(wanted, Cluster(me=node("me"), peers=(holder,)))
    assert route.why == (
        "board-2: 3 ahead, 18.8 s",
        "loaded",
        "reads 212 tokens in 2.1 s, 1,024 are cached",
        "writes 20 tokens in 2.0 s",
    )
    assert route.seconds == pytest.approx(3 * (1.28 + 5) + 2.12 + 2 + 0.002)


def test_a_model_alone_on_this_node_is_answered_here() -> None:
    route = choose("qwen", cluster("llama", "qwen"))
    assert (route.node.id, route.card.id) == ("me", "qwen")
    assert route.why[0] == "me (here): nobody ahead"


@pytest.mark.parametrize(
    ("asked", "models", "words"),
    [
        ("qwen2.5-1.5b", ("qwen2.5-1.5b-instruct", "llama"), "did you mean qwen2.5-1.5b-instruct"),
        ("zzz", ("llama", "qwen"), "there is llama, qwen"),
        ("QWEN", ("qwen",), "there is qwen"),
        ("qwen", (), "download one, or put it into the models folder"),
    ],
)
def test_an_unknown_model_is_an_error_that_helps(asked: str, models: tuple[str, ...], words: str) -> None:
    for there in (cluster(*models), Cluster(me=node("me"), peers=(node("peer", *models),))):
        with pytest.raises(ModelNotFound, match=words) as missing:
            choose(asked, there)
        assert missing.value.param == "model"


IDLE = ready("m", idle=100.0)
HERE_AND_THERE: dict[str, tuple[Node, Node, str]] = {
    "equal nodes keep the request here": (node("here", "m"), node("there", "m"), "here"),
    "loaded there beats loading here": (node("here", "m"), node("there", "m", loaded=(IDLE,)), "there"),
    "loading here beats a queue there that takes longer": (
        node("here", "m"),
        node("there", "m", loaded=(ready("m", running=1),)),
        "here",
    ),
    "idle there beats busy here": (
        node("here", "m", loaded=(ready("m", running=1),)),
        node("there", "m", loaded=(IDLE,)),
        "there",
    ),
    "nobody beside it there beats a free slot beside others here": (
        node("here", "m", loaded=(ready("m", running=1, slots=4),)),
        node("there", "m", loaded=(ready("m", slots=4),)),
        "there",
    ),
    "a load under way beats one that has to begin": (
        node("here", "m"),
        node("there", "m", loaded=(replace(ready("m", slots=0), state="loading"),)),
        "there",
    ),
    "free memory beats evicting what was used a moment ago": (
        node("here", "m", "x", loaded=(ready("x", idle=5.0),)),
        node("there", "m"),
        "there",
    ),
    "what nobody used for a minute costs nothing to evict": (
        node("here", "m", "x", loaded=(ready("x", idle=61.0),)),
        node("there", "m"),
        "here",
    ),
    "the least recently used is what leaves": (
        node(
            "here",
            "m",
            "x",
            "y",
            loaded=(ready("x", used=1, idle=61.0), ready("y", used=2, idle=1.0)),
            budget=2,
        ),
        node("there", "m"),
        "here",
    ),
    "no waiting for what runs to leave memory": (
        node("here", "m", "x", loaded=(ready("x", running=1),)),
        node("there", "m"),
        "there",
    ),
    "a model that leaves memory has to be loaded": (
        node("here", "m", loaded=(replace(IDLE, state="leaving"),)),
        node("there", "m", loaded=(IDLE,)),
        "there",
    ),
    "who waits for a model that is not in memory is ahead, too": (
        node("here", "m", loaded=(IDLE,), waiting=1),
        node("there", "m", loaded=(IDLE,)),
        "there",
    ),
    "nearly as good here is good enough": (
        node("here", "m", loaded=(IDLE,), speeds=(Speed(model="m", **{**PACE, "decode": 9.6}),)),
        node("there", "m", loaded=(IDLE,)),
        "here",
    ),
    "clearly slower here is not": (
        node("here", "m", loaded=(IDLE,), speeds=(Speed(model="m", **{**PACE, "decode": 8.8}),)),
        node("there", "m", loaded=(IDLE,)),
        "there",
    ),
    "leaving nodes get nothing new": (
        node("here", "m", loaded=(IDLE,), leaving=True),
        node("there", "m"),
        "there",
    ),
    "nor do those without the memory": (node("here", "m", budget=0), node("there", "m"), "there"),
    "nor those with a full queue": (
        node("here", "m", loaded=(IDLE,), queue=0),
        node("there", "m"),
        "there",
    ),
}


@pytest.mark.parametrize(("here", "there", "winner"), HERE_AND_THERE.values(), ids=HERE_AND_THERE.keys())
def test_the_node_expected_to_finish_first_wins(here: Node, there: Node, winner: str) -> None:
    wanted = Asked(model="m", prompt=10)
    assert choose(wanted, Cluster(me=here, peers=(there,))).node.id == winner


def test_another_servers_model_takes_no_memory() -> None:
    here = replace(node("me", budget=0), cards=(card("far", memory=0, format="remote"),))
    assert "another server keeps it" in choose(Asked(model="far"), Cluster(me=here)).why


def test_a_model_in_memory_is_served_though_it_is_beyond_the_budget() -> None:
    assert choose(Asked(model="m"), Cluster(me=node("me", "m", loaded=(IDLE,), budget=0))).node.id == "me"


def test_what_runs_has_to_finish_before_its_memory_is_free() -> None:
    here = node("me", "m", "x", loaded=(ready("x", running=1),))
    here = replace(here, cards=(card("m"), card("x")))  # with free slots of its own
    route = choose(Asked(model="m"), Cluster(me=here))
    assert route.why[1:4] == (
        "loads in 5.0 s",
        "x has to finish and leave, 5.0 s to load it again",
        "waits 6.3 s for memory",
    )


def test_a_model_that_is_still_being_loaded_has_read_nothing() -> None:
    loading = replace(ready("m", slots=0), state="loading")
    here = node("me", "m", loaded=(loading,), prefixes=(Prefix("m", (1, 2)),))
    assert "reads 400 tokens in 4.0 s" in choose(FOLLOW_UP, Cluster(me=here)).why


def test_a_speed_nobody_measured_is_said_to_be_a_guess() -> None:
    there = Cluster(me=node("me", "m", speeds=()), peers=(node("peer", "m"),))
    assert explain(Asked(model="m"), there)[0].why[-1] == "speed guessed from other RK3588 nodes"


@pytest.mark.parametrize(
    ("answers", "winner"), [(0, "there"), (1, "here")], ids=["as fast", "slower than reading it again"]
)
def test_a_follow_up_goes_where_it_was_read_before(answers: int, winner: str) -> None:
    here = node("here", "m", loaded=(IDLE,))
    there = node(
        "there", "m", loaded=(ready("m", running=answers),), prefixes=(Prefix("m", (1,)), Prefix("x", (2,)))
    )
    assert choose(FOLLOW_UP, Cluster(me=here, peers=(there,))).node.id == winner


def test_little_to_read_again_is_no_reason_to_leave_what_has_read_it() -> None:
    """Of a long answer it is less than the share by which two nodes count as equal."""
    here = node("here", "m", loaded=(IDLE,), speeds=(Speed(model="m", **{**PACE, "answer": 1000.0}),))
    there = replace(here, id="there", prefixes=(Prefix("m", (1,)),))
    assert choose(FOLLOW_UP, Cluster(me=here, peers=(there,))).node.id == "there"


def test_what_we_have_sent_counts_before_the_node_says_so() -> None:
    peers = tuple(node(f"n{i}", "m", loaded=(IDLE,)) for i in range(4))
    there = Cluster(me=node("me"), peers=peers)
    sent: dict[str, int] = {}
    for _ in range(8):
        chosen = choose(Asked(model="m"), there, sent=sent).node.id
        sent[chosen] = sent.get(chosen, 0) + 1
    assert sent == {"n0": 2, "n1": 2, "n2": 2, "n3": 2}


def test_what_the_node_counts_already_is_not_counted_again() -> None:
    there = Cluster(
        me=node("me"), peers=(node("n", "m", loaded=(ready("m", running=1, waiting=2),), waiting=2),)
    )

    def ahead(sent: int, counted: int) -> str:
        return choose(Asked(model="m"), there, sent={"n": sent}, counted={"n": counted}).why[0]

    assert ahead(2, 2) == "n: 3 ahead, 18.8 s"
    assert ahead(1, 2) == "n: 2 ahead, 12.6 s", "one of ours has ended since"
    assert ahead(4, 2) == "n: 5 ahead, 31.4 s", "we have sent two more since"
    assert ahead(0, 5) == "n: nobody ahead", "more than it said, as some had not arrived"


def test_other_servers_models_have_a_queue_apart_from_the_nodes_own() -> None:
    far = replace(ready("far", running=1, waiting=5), bytes=0)
    cards = (card("far", memory=0, format="rkllm"), card("m", format="rkllm"))
    here = replace(node("me", loaded=(far, ready("m", running=1)), waiting=3, queue=4), cards=cards)
    route = explain(Asked(model="m"), Cluster(me=here))[0]
    assert route.why[0].startswith("me (here): 4 ahead")
    with pytest.raises(Overloaded):
        explain(Asked(model="far"), Cluster(me=here))
    route = explain(Asked(model="far"), Cluster(me=replace(here, waiting=6, queue=6)))[0]
    assert route.why[0].startswith("me (here): 6 ahead")


def test_equal_nodes_share_the_conversations_and_every_entry_agrees_on_each() -> None:
    peers = tuple(node(f"n{i}", "m", loaded=(IDLE,)) for i in range(4))

    def entered(entry: str) -> list[str]:
        begun = [Asked(model="m", prefixes=(hash,), prefix_tokens=(5,)) for hash in range(100)]
        return [choose(each, Cluster(me=node(entry), peers=peers)).node.id for each in begun]

    assert entered("one") == entered("two")
    assert min(entered("one").count(peer.id) for peer in peers) > 10


def test_who_has_no_conversation_enters_equal_nodes_in_another_order_elsewhere() -> None:
    peers = tuple(node(f"n{i}", "m", loaded=(IDLE,)) for i in range(4))
    chosen = {choose(Asked(model="m"), Cluster(me=node(f"e{i}"), peers=peers)).node.id for i in range(20)}
    assert chosen == {"n0", "n1", "n2", "n3"}


def test_full_queues_everywhere_say_when_to_come_back() -> None:
    full = [
        node(f"n{i}", "m", loaded=(ready("m", running=1, waiting=2 + i),), waiting=2 + i, queue=2)
        for i in (0, 1)
    ]
    with pytest.raises(Overloaded, match="n0, n1") as overloaded:
        choose(Asked(model="m"), Cluster(me=full[1], peers=(full[0],)))
    assert overloaded.value.retry_after == pytest.approx(3 * 6.28)


def test_a_queue_we_have_filled_ourselves_is_full() -> None:
    there = Cluster(me=node("me", "m", loaded=(IDLE,), queue=2))
    choose(Asked(model="m"), there, sent={"me": 2})
    with pytest.raises(Overloaded):
        choose(Asked(model="m"), there, sent={"me": 3})


@pytest.mark.parametrize(
    ("me", "without", "words"),
    [
        (node("me", "m", leaving=True), (), "no node can serve model 'm' now: me is shutting down$"),
        (node("me", "m", budget=0), (), "me may use 0 MB .* raise --memory"),
        (node("me", "m"), ("me",), "no other node has model 'm' than me"),
    ],
)
def test_a_model_nobody_can_serve_now_is_not_ready_and_says_why(
    me: Node, without: tuple[str, ...], words: str
) -> None:
    with pytest.raises(NotReady, match=words):
        choose(Asked(model="m"), Cluster(me=me), without=without)


@pytest.mark.parametrize(
    "me", [node("me", "m", leaving=True), node("me", "m", budget=0), node("me", "m", queue=0)]
)
def test_a_model_asked_for_by_id_alone_is_found_though_nobody_could_answer(me: Node) -> None:
    assert choose("m", Cluster(me=me)).node.id == "me"
    able = node("able", "m", loaded=(ready("m", running=9),))
    assert choose("m", Cluster(me=me, peers=(able,))).node.id == "able"


TURNS = (
    Message("system", "You are brief."),
    Message("user", "Hello?"),
    Message("assistant", "Hi.", (ToolCall(0, "1", "wave", "{}"),)),
    Message("tool", "waved", tool_call_id="1"),
    Message("user", "Thanks!"),
)


def conversation(turns: int, **rest: object) -> ChatRequest:
    return ChatRequest(model="m", messages=TURNS[:turns], **rest)  # type: ignore[arg-type]


def test_a_follow_up_has_the_hashes_of_the_turns_before_it() -> None:
    whole = prefixes(conversation(5))
    assert [prefixes(conversation(turns)) for turns in (2, 3, 4, 5)] == [whole[:end] for end in (1, 2, 3, 4)]
    assert len(set(whole)) == 4
    assert all(0 <= hash < 2**63 for hash in whole)
    assert len(prefixes(conversation(1))) == 1
    assert prefixes(ChatRequest(model="m")) == ()


def test_another_beginning_has_none_of_the_same_hashes() -> None:
    first = set(prefixes(conversation(5)))
    other = replace(conversation(5), messages=(Message("system", "You are brief"), *TURNS[1:]))
    assert first.isdisjoint(prefixes(other))
    assert first.isdisjoint(prefixes(conversation(5, tools=(Tool("wave"),))))
    assert first.isdisjoint(
        prefixes(replace(other, messages=(Message("system", "You are brief.H"), *TURNS[1:])))
    )


def test_a_raw_prompts_hashes_are_of_its_first_bytes() -> None:
    def of(prompt: str) -> tuple[int, ...]:
        return prefixes(ChatRequest(model="m", prompt=prompt))

    assert [len(of("ü" * characters)) for characters in (511, 512, 1023, 1024, 8192)] == [0, 1, 1, 2, 5]
    assert of("ü" * 600) == of("ü" * 512 + "a" * 600)[:1]


def test_hashes_are_the_same_in_every_process() -> None:
    # Written down once: nodes of different releases have to agree.
    assert prefixes(conversation(2)) == (1689137554538075074,)
    code = (
        "from exo.chat import *; from exo.choice.routing import prefixes;"
        "print(prefixes(ChatRequest(model='x', messages=(Message('user', 'hi'),))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(prefixes(ChatRequest(model="m", messages=(Message("user", "hi"),))))


def test_tokens_are_estimated_from_bytes() -> None:
    request = conversation(5, sampling=Sampling(max_tokens=9))
    estimate = asked(request)
    assert (estimate.model, estimate.answer, estimate.prefixes) == ("m", 9, prefixes(request))
    assert estimate.prompt == estimate.prefix_tokens[-1]
    assert list(estimate.prefix_tokens) == sorted(set(estimate.prefix_tokens))
    begun = asked(replace(request, so_far=SoFar("a" * 40, "b" * 40)))
    assert begun == replace(estimate, prompt=estimate.prompt + 20)
    raw = asked(ChatRequest(model="m", prompt="a" * 4000))
    assert (raw.prompt, raw.prefix_tokens) == (1000, (256, 512))
