"""The choice between a quick model and one that reasons: what always holds of it, and what it is."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from auto.__main__ import WEIGHTS, weights
from auto.evaluation import plain_questions
from exo.cards import ModelCard
from exo.chat import ChatRequest, Message, Role, Tool
from exo.choice.auto import Candidate, Pair, Picked, Raised, default_pair, pick, thinking_seconds, threshold
from exo.choice.questions import BUCKETS, NAMES, Weights, features, likelihood, probability
from exo.errors import BadRequest, ContextLengthExceeded

Wish = Literal["", "quick", "reasoning"]

HARD = "Prove that the sum of two odd numbers is even, and determine when their product is, step by step."
EASY = "Hello, how are you?"
SCHEMA = {"type": "object"}
WEATHER = (Tool("weather"),)


def card(id: str, **fields: Any) -> ModelCard:
    return ModelCard(**{"id": id, "format": "gguf", "context": 4096, "bytes": 1, "memory": 1, **fields})


def thinker(id: str, *more: Any, **fields: Any) -> ModelCard:
    return card(id, capabilities=("completion", "thinking", *more), **fields)


def asking(*texts: str, **fields: Any) -> ChatRequest:
    """A conversation in which the user said these, the last of them now."""
    turns = [Message("user", text) for text in texts]
    answered = [message for turn in turns[:-1] for message in (turn, Message("assistant", "I see."))]
    return ChatRequest(model="auto", messages=(*answered, turns[-1]), **fields)


QUICK = Candidate(card=card("small"), seconds=2.0)
SLOW = Candidate(card=thinker("big"), seconds=3.0, thinking_seconds=10.0)
SAME = Candidate(card=thinker("one"), seconds=2.0, thinking_seconds=5.0)


def picked(
    request: ChatRequest,
    wish: Wish = "",
    quick: Candidate = QUICK,
    reasoning: Candidate = SLOW,
    raised: bool = False,
) -> Picked:
    return pick(request, wish, quick, reasoning, raised=raised)


# What always holds.

TEXTS = st.text(max_size=80) | st.sampled_from(
    [HARD, EASY, "What is 145 + 278?", "¿Cuántos?", "为什么?", HARD * 20]
)
SECONDS = st.floats(0, 1e5)
TURNS = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS)
REQUESTS = st.builds(
    ChatRequest,
    model=st.just("auto"),
    messages=st.lists(TURNS, min_size=1, max_size=4).map(tuple),
    thinking=st.sampled_from([None, None, None, True, False]),
    json_schema=st.sampled_from([None, None, SCHEMA]),
    tools=st.sampled_from([(), WEATHER]),
) | st.builds(ChatRequest, model=st.just("auto"), prompt=TEXTS)
CAPABILITIES = [
    ("completion",),
    ("completion", "thinking"),
    ("completion", "thinking", "tools"),
    ("embedding",),
]


def candidates(id: str) -> st.SearchStrategy[Candidate]:
    return st.builds(
        Candidate,
        card=st.builds(
            card,
            st.just(id),
            context=st.sampled_from([0, 8, 4096]),
            capabilities=st.sampled_from(CAPABILITIES),
        ),
        seconds=SECONDS,
        thinking_seconds=SECONDS,
        able=st.sampled_from([True, True, True, False]),
        switch=st.sampled_from([None, True, False]),
    )


WISHES = st.sampled_from(["", "quick", "reasoning"])


def is_able(request: ChatRequest, candidate: Candidate) -> bool:
    """Whether it is picked where it is wished for, and the other one is out."""
    other = Candidate(card=card("-"), able=False)
    try:
        picked(request, "quick", candidate, other)
    except BadRequest:
        return False
    return True


@given(REQUESTS, WISHES, candidates("q"), candidates("r"), st.booleans())
def test_the_same_is_picked_each_time_and_only_what_is_able(
    request: ChatRequest, wish: Wish, quick: Candidate, reasoning: Candidate, raised: bool
) -> None:
    able = {each.card.id for each in (quick, reasoning) if is_able(request, each)}
    if not able:
        with pytest.raises(BadRequest, match=r"q: .+; r: .+") as caught:
            picked(request, wish, quick, reasoning, raised)
        assert caught.value.param == "model"
        return
    first = picked(request, wish, quick, reasoning, raised)
    assert first == picked(request, wish, quick, reasoning, raised)
    assert first.model in able
    assert first.model == {"quick": "q", "reasoning": "r"}[first.kind]
    assert 0.0 <= first.probability <= 1.0
    assert first.why
    assert all(first.why)


@given(REQUESTS, st.sampled_from(["quick", "reasoning"]), candidates("q"), candidates("r"), st.booleans())
def test_a_wish_is_granted_unless_that_model_is_not_able(
    request: ChatRequest, wish: Wish, quick: Candidate, reasoning: Candidate, raised: bool
) -> None:
    wished = {"quick": quick, "reasoning": reasoning}[wish]
    if is_able(request, wished):
        assert picked(request, wish, quick, reasoning, raised).kind == wish


@given(REQUESTS, candidates("q"), candidates("r"), SECONDS, st.booleans())
def test_more_seconds_never_turn_quick_into_reasoning(
    request: ChatRequest, quick: Candidate, reasoning: Candidate, more: float, raised: bool
) -> None:
    if not (is_able(request, quick) and is_able(request, reasoning)):
        return
    before = picked(request, "", quick, reasoning, raised)
    slower = replace(reasoning, thinking_seconds=reasoning.thinking_seconds + more)
    if before.kind == "quick":
        assert picked(request, "", quick, slower, raised).kind == "quick"


@given(REQUESTS, WISHES, candidates("q"), candidates("r"))
def test_what_was_raised_is_never_lowered_by_it(
    request: ChatRequest, wish: Wish, quick: Candidate, reasoning: Candidate
) -> None:
    if not (is_able(request, quick) or is_able(request, reasoning)):
        return
    if picked(request, wish, quick, reasoning).kind == "reasoning":
        assert picked(request, wish, quick, reasoning, raised=True).kind == "reasoning"


@given(REQUESTS, WISHES, candidates("q"), candidates("r"), st.booleans())
def test_thinking_stays_as_the_request_says_and_is_never_switched_where_there_is_no_room_for_it(
    request: ChatRequest, wish: Wish, quick: Candidate, reasoning: Candidate, raised: bool
) -> None:
    if not (is_able(request, quick) or is_able(request, reasoning)):
        return
    choice = picked(request, wish, quick, reasoning, raised)
    if request.thinking is not None or request.json_schema is not None or request.prompt is not None:
        assert choice.thinking == request.thinking
    if request.thinking is None and {"q": quick, "r": reasoning}[choice.model].switch is False:
        assert choice.thinking is None


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=2).map(sorted))
def test_the_threshold_is_half_at_no_cost_and_rises_to_one(seconds: list[float]) -> None:
    assert threshold(0) == 0.5
    assert 0.5 <= threshold(seconds[0]) <= threshold(seconds[1]) < 1
    assert threshold(60) == pytest.approx(2 / 3)
    assert threshold(300) == pytest.approx(6 / 7)
    assert threshold(float("inf")) == 1.0


# The cascade, one step at a time.


def test_a_hard_question_is_for_the_reasoning_model_and_says_why() -> None:
    choice = picked(asking(HARD))
    assert (choice.model, choice.kind, choice.thinking) == ("big", "reasoning", True)
    why, costs = choice.why
    assert why.startswith(
        f"auto: reasoning, as {choice.probability:.2f} of such questions gain from thinking: "
    )
    assert "says 'prove'" in why
    assert costs == "costs about 11 s more"


def test_an_easy_question_is_for_the_quick_model_and_says_why() -> None:
    choice = picked(asking(EASY))
    assert (choice.model, choice.kind, choice.thinking) == ("small", "quick", None)
    assert choice.why[0].startswith(
        f"auto: quick, as only {choice.probability:.2f} of such questions gain from thinking: "
    )
    assert "says 'hello'" in choice.why[0]
    assert choice.why[1] == "more than 0.59 would have to, as it costs about 11 s more"


def test_one_model_is_both_and_thinks_or_not() -> None:
    hard, easy = picked(asking(HARD), "", SAME, SAME), picked(asking(EASY), "", SAME, SAME)
    assert (hard.model, hard.thinking, easy.model, easy.thinking) == ("one", True, "one", False)


def test_what_is_asked_of_thinking_is_a_wish_and_the_name_goes_before_it() -> None:
    assert picked(asking(EASY, thinking=True)).kind == "reasoning"
    assert picked(asking(HARD, thinking=False)).kind == "quick"
    assert picked(asking(HARD, thinking=False), "reasoning").kind == "reasoning"
    assert picked(asking(HARD, thinking=False), raised=True).kind == "quick"


def test_a_budget_of_thought_is_no_wish_for_it() -> None:
    assert picked(asking(EASY, thinking_budget=100)).kind == "quick"


@pytest.mark.parametrize(
    "request_",
    [
        asking(HARD, json_schema=SCHEMA),
        asking(HARD, grammar='root ::= "a"'),
        ChatRequest(model="", prompt=HARD),
    ],
)
def test_where_thoughts_have_no_room_the_quick_model_answers(request_: ChatRequest) -> None:
    choice = picked(request_, "", SAME, SAME, raised=True)
    assert (choice.kind, choice.thinking) == ("quick", None)
    assert picked(request_, "reasoning").kind == "reasoning"


def test_what_was_raised_stays_there() -> None:
    choice = picked(asking(HARD, "and with five?"), raised=True)
    assert choice.kind == "reasoning"
    assert choice.why == ("auto: reasoning, as the conversation was before", "costs about 11 s more")


@pytest.mark.parametrize(
    ("quick", "request_", "lack"),
    [
        (replace(QUICK, able=False, why="no node has 9 MB for it"), asking(EASY), "no node has 9 MB for it"),
        (replace(QUICK, card=card("small", context=2)), asking(EASY), "about 10 tokens, and its context 2"),
        (
            replace(QUICK, card=card("small", capabilities=("embedding",))),
            asking(EASY),
            "it is not made to chat",
        ),
        (replace(QUICK, card=thinker("small")), asking(EASY, tools=WEATHER), "it is not made to call tools"),
    ],
)
def test_a_model_that_cannot_serve_gives_way_and_it_is_said_what_it_lacks(
    quick: Candidate, request_: ChatRequest, lack: str
) -> None:
    able = replace(SLOW, card=thinker("big", "tools"))
    choice = picked(request_, "quick", quick, able)
    assert choice.model == "big"
    assert choice.thinking is False
    assert choice.why[-1].startswith("but small cannot: ")
    assert lack in choice.why[-1]


def test_tools_and_contexts_that_are_not_known_are_no_obstacle() -> None:
    quick = replace(QUICK, card=card("small", context=0))
    assert picked(asking(EASY * 9999, tools=WEATHER), "quick", quick).model == "small"


def test_where_neither_can_each_is_named_with_what_it_lacks() -> None:
    out = replace(QUICK, able=False, why="it takes 9 GB")
    with pytest.raises(
        BadRequest, match=r"small: it takes 9 GB; big: it is not made to call tools"
    ) as caught:
        picked(asking(HARD, tools=WEATHER), "", out)
    assert (type(caught.value), caught.value.param) == (BadRequest, "model")
    with pytest.raises(
        ContextLengthExceeded, match=r"about 5,\d{3} tokens, and its context 4,096; big: "
    ) as caught:
        picked(asking("word " * 4000))
    assert caught.value.param == "model"


def test_the_seconds_of_thought_are_those_of_the_budget_where_that_is_less() -> None:
    assert thinking_seconds(10.0, None) == 50.0
    assert thinking_seconds(10.0, 100) == 10.0
    assert thinking_seconds(10.0, 10_000) == 50.0
    assert thinking_seconds(10.0, None, usual=20.0) == 2.0


# What was raised.


def test_a_conversation_is_known_by_its_later_turns_for_as_long_as_it_may_live() -> None:
    raised = Raised(seconds=600.0)
    raised.remember(asking(EASY, HARD), 100.0)
    for request in (asking(EASY, HARD), asking(EASY, HARD, "why?"), asking(EASY, HARD, "why?", "sure?")):
        assert raised.holds(request, 100.0)
        assert raised.holds(request, 699.9)
        assert not raised.holds(request, 700.0)


def test_another_conversation_and_its_own_beginning_are_not_raised() -> None:
    raised = Raised()
    raised.remember(asking(EASY, HARD), 0.0)
    assert not raised.holds(asking(EASY), 1.0)
    assert not raised.holds(asking(EASY, "bye"), 1.0)
    assert not raised.holds(asking(HARD), 1.0)


def test_turns_that_only_stay_raised_do_not_prolong_it_and_later_ones_may_raise_anew() -> None:
    raised = Raised(seconds=600.0)
    raised.remember(asking(HARD), 0.0)
    raised.remember(asking(HARD, "why?"), 599.0)
    assert not raised.holds(asking(HARD, "why?"), 600.0)
    raised.remember(asking(HARD, "why?"), 600.0)
    assert raised.holds(asking(HARD, "why?"), 1199.0)
    assert not raised.holds(asking(HARD), 1199.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=60))
def test_no_more_are_kept_than_may_be_and_the_latest_are(events: list[tuple[int, int]]) -> None:
    raised, now, latest = Raised(most=4, seconds=10.0), 0.0, dict[int, float]()
    for number, later in events:
        now += later
        request = asking(str(number))
        if latest.get(number, now) <= now:
            latest.pop(number, None)
            latest[number] = now + 10.0
        raised.remember(request, now)
        assert len(raised) <= 4
        kept = {each for each in list(latest)[-4:] if latest[each] > now}
        assert {each for each in range(31) if raised.holds(asking(str(each)), now)} == kept
        latest = {each: latest[each] for each in latest if each in kept}


def test_nothing_is_kept_where_nothing_may_live() -> None:
    raised = Raised(seconds=0.0)
    raised.remember(asking(HARD), 5.0)
    assert len(raised) == 0


# The pair where the owner names none.

BILLION = 10**9


@pytest.mark.parametrize(
    ("cards", "always", "pair"),
    [
        ([], (), None),
        ([card("e", capabilities=("embedding",))], (), None),
        ([card("a")], (), Pair("a", "a")),
        ([thinker("a")], (), Pair("a", "a")),
        ([thinker("a")], ("a",), Pair("a", "a")),
        (
            [card("a", thinking=False, parameters=BILLION), card("b", parameters=9 * BILLION)],
            (),
            Pair("a", "a"),
        ),
        # The largest that thinks, the smallest that does not.
        (
            [
                thinker("t4", parameters=4 * BILLION),
                thinker("t8", parameters=8 * BILLION),
                card("p1", parameters=BILLION),
                card("p3", parameters=3 * BILLION),
            ],
            (),
            Pair("p1", "t8"),
        ),
        # No smaller one: it thinks on request, or it cannot be kept from it.
        ([thinker("t", parameters=BILLION), card("p", parameters=3 * BILLION)], (), Pair("t", "t")),
        ([thinker("t", parameters=BILLION), card("p", parameters=3 * BILLION)], ("t",), Pair("p", "t")),
        ([card("t", parameters=2 * BILLION), card("p", parameters=BILLION)], ("t",), Pair("p", "t")),
        # None thinks.
        ([card("p", parameters=BILLION), card("q", parameters=2 * BILLION)], (), Pair("p", "q")),
        # A toy is not taken while there is another one.
        ([card("toy", parameters=10**6), thinker("t", parameters=BILLION)], (), Pair("t", "t")),
        ([thinker("toy", parameters=10**6)], (), Pair("toy", "toy")),
        # Other servers' models have no size but in their names.
        (
            [
                card("qwen2.5-1.5b-instruct-rkllm", bytes=0),
                card("qwen2.5-7b-rkllm", bytes=0),
                card("phi-3-mini-rkllm", bytes=0),
                thinker("deepseek-r1-8b-rkllm", bytes=0),
            ],
            ("deepseek-r1-8b-rkllm",),
            Pair("qwen2.5-1.5b-instruct-rkllm", "deepseek-r1-8b-rkllm"),
        ),
    ],
)
def test_the_default_pair(cards: list[ModelCard], always: tuple[str, ...], pair: Pair | None) -> None:
    assert default_pair(cards, always=always) == pair
    assert default_pair(list(reversed(cards)), always=always) == pair


# Questions as numbers.


def value(name: str, text: str) -> float:
    return features(asking(text)).values[NAMES.index(name)]


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("length", "a long question", "short"),
        ("beyond", "x" * 501, "x" * 500),
        ("sentences", "One. Two. Three.", "One, two, three."),
        ("numbers", "3 of 4", "three of four"),
        ("one sum", "145 + 278", "145 + 278 - 3"),
        ("sums", "1 + 2 * 3 - 4", "1 + 2"),
        ("symbols", "∀x: x² ≥ 0", "for all x"),
        ("code", "```\nprint(1)\n```", "print"),
        ("lists", "- a\n- b\n1. c", "a, b, c"),
        ("questions", "Why? How\uff1f", "why"),
        ("quantity", "How many are left?", "Many are left."),
        ("quantity", "Wie viele sind es?", "Viele."),
        ("quantity", "¿Cuántos quedan?", "Quedan."),
        ("quantity", "还剩多少\uff1f", "还剩。"),
        ("proof", "prove it", "approve it"),
        ("steps", "step by step", "a step back"),
        ("conditions", "at least two, if possible", "two"),
        ("best", "the shortest way", "a short way"),
        ("faults", "the bug in it", "the bugle in it"),
        ("text", "translate this", "this"),
        ("writing", "a haiku", "a text"),
        ("facts", "what is jazz", "is jazz good"),
        ("chat", "hello", "yellow"),
    ],
)
def test_a_feature_is_larger_where_there_is_more_of_it(name: str, more: str, less: str) -> None:
    assert value(name, more) > value(name, less)


def test_turns_and_what_was_asked_before_are_features_of_the_conversation() -> None:
    turns, earlier = (NAMES.index(name) for name in ("turns", "earlier"))
    one, two = features(asking("and with five?")), features(asking(HARD, "and with five?"))
    assert (one.values[turns], one.values[earlier]) == (0, 0)
    assert two.values[turns] > 0
    assert two.values[earlier] > 0
    assert features(asking(EASY, "and with five?")).values[earlier] == 0


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_only_what_users_say_counts(role: Role) -> None:
    request = asking("Hi", "How much?")
    more = replace(request, model="other", messages=(*request.messages, Message(role, HARD)))
    assert features(more) == features(request)


def test_what_stands_between_the_ends_of_a_long_message_is_not_read() -> None:
    material = "Each of the 12 proofs must hold, if x = 3.\n" * 50
    prose = "The weather was fine, and nobody cared to count.\n" * 44
    request = asking(f"Summarise this:\n{material}Thanks!")
    other = asking(f"Summarise this:\n{prose}Thanks!")
    assert abs(len(request.messages[0].content) - len(other.messages[0].content)) < 20
    assert features(request).buckets == features(other).buckets
    assert likelihood(request).probability < 0.2
    assert probability(asking(f"{material}\nSo, how many of them follow from the others? Prove it.")) > 0.8


def test_numbers_are_one_word() -> None:
    assert features(asking("take 3 of 12")).buckets == features(asking("take 99 of 1000")).buckets


@given(REQUESTS)
def test_any_request_has_its_features(request: ChatRequest) -> None:
    found = features(request)
    assert len(found.values) == len(NAMES)
    assert all(value >= 0 for value in found.values)
    assert all(0 <= bucket < BUCKETS for bucket in found.buckets)
    assert 0.0 <= probability(request) <= 1.0


@given(TEXTS, TEXTS, st.integers(0, 100_000))
def test_a_longer_message_is_not_more_to_read(first: str, last: str, length: int) -> None:
    assert len(features(asking(f"{first} {'lorem ipsum ' * length} {last}")).buckets) <= 1000


# The weights.


def test_nothing_is_read_on_import_and_no_heavy_library_is() -> None:
    code = """
import sys, pathlib
read = []
pathlib.Path.read_bytes = lambda self: read.append(self.name) or open(self, "rb").read()
import exo.choice.auto
assert not read, read
assert "numpy" not in sys.modules
from exo.chat import ChatRequest, Message
for _ in range(2):
    exo.choice.auto.likelihood(ChatRequest(model="", messages=(Message("user", "hi"),)))
assert read == ["auto.json"], read
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_are_small_and_for_these_features() -> None:
    data = (Path(sys.modules["exo.choice.questions"].__file__ or "").with_name("auto.json")).read_bytes()
    read = msgspec.json.decode(data, type=Weights)
    assert len(data) < 100_000
    assert tuple(read.values) == NAMES
    assert len(read.buckets) == BUCKETS


def test_the_weights_are_what_the_script_makes_to_the_byte() -> None:
    assert weights() == WEIGHTS.read_bytes()


# Decisions on plain questions, where thinking costs twelve seconds.

QUICKLY = [
    # One step, which any useful model takes at once; its scratchpad would be longer than the answer.
    "What is 145 + 278?",
    "What is Python in one sentence?",
    "Write a Python function to check if a number is prime.",
    "Is 17 a prime number? Explain.",
    "Write a haiku about AI.",
    "Good morning!",
    "What is the capital of Australia?",
    "How many people live in Tokyo?",
    'Translate into German: "How many apples are left if each child gets at least two?"',
    "Fasse den folgenden Text in drei Sätzen zusammen: Der Rat tagte bis spät in die Nacht.",
    "¿Quién escribió Cien años de soledad?",
    "给我写一首关于月亮的诗。",
]
THOUGHTFULLY = [
    "A train leaves at 9:40 at 80 km/h, another at 10:10 from 300 km away at 110 km/h. When do they meet?",
    "Prove that there are infinitely many primes of the form 4k + 3.",
    "If all cats are mammals and some mammals swim, does it follow that some cats swim?",
    "Why is the total sometimes wrong here? for x in xs: if x in seen: xs.remove(x) else: total += x",
    "In how many ways can 7 people sit around a table if two of them must not sit together?",
    "Wie groß ist die Wahrscheinlichkeit, mit drei Würfeln mindestens 15 zu werfen?",
    "Resuelve el sistema 2x + 3y = 12, x - y = 1 y justifica cada paso.",
    "一个水池有两个进水管\uff0c甲管5小时注满\uff0c乙管7小时注满\uff0c两管同时开多久注满\uff1f",
]


@pytest.mark.parametrize("text", QUICKLY)
def test_a_plain_question_is_answered_quickly(text: str) -> None:
    choice = picked(asking(text))
    assert choice.kind == "quick", choice


@pytest.mark.parametrize("text", THOUGHTFULLY)
def test_a_question_that_takes_thought_gets_it(text: str) -> None:
    choice = picked(asking(text))
    assert choice.kind == "reasoning", choice


def test_most_questions_written_by_hand_are_decided_as_people_would() -> None:
    wrong = [text for pays, text in plain_questions() if (picked(asking(text)).kind == "reasoning") != pays]
    assert len(wrong) <= 9, wrong
