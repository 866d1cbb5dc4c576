"""The corpus is its seed, keeps its promise about held-out pairs, and says nothing wrong."""

import hashlib
import json
import re
from itertools import islice
from random import Random

import pytest

from demo.corpus import Conversation, conversations
from demo.sums import addition, held_out, held_out_pairs, subtraction, trained_pair
from demo.tools import offer, result


@pytest.fixture(scope="module")
def drawn() -> list[Conversation]:
    return list(islice(conversations(0), 20_000))


def test_a_corpus_is_its_seed(drawn: list[Conversation]) -> None:
    first = [[each.messages, each.thinking, each.tools] for each in drawn[:2000]]
    digest = hashlib.sha256(json.dumps(first).encode()).hexdigest()
    assert digest == "ee19f7cbd2227aa4135ed22dacca1abf22cfc2a0c164f311e244cec1c30d53b3"
    assert next(conversations(1)) != drawn[0]


def test_held_out_is_symmetric_stable_and_about_one_in_twenty() -> None:
    pairs = [(a, b) for a in range(10, 1000, 7) for b in range(10, 1000, 7)]
    share = sum(held_out(a, b) for a, b in pairs) / len(pairs)
    assert 0.045 < share < 0.055
    assert all(held_out(a, b) == held_out(b, a) for a, b in pairs)
    assert held_out(145, 278)
    assert not held_out(145, 279)
    assert not any(held_out(a, b) for a in range(10) for b in range(1000))


def test_held_out_pairs_are_held_out() -> None:
    pairs = held_out_pairs(50, seed=3)
    assert all(held_out(a, b) and 10 <= a < 1000 and 10 <= b < 1000 for a, b in pairs)
    assert pairs == held_out_pairs(50, seed=3) != held_out_pairs(50, seed=4)


def test_no_held_out_pair_is_asked_or_answered_in_either_order(drawn: list[Conversation]) -> None:
    between = r"(?:\s*[+*/-]\s*| plus | minus | times | and | to | from | divided by )"
    asked = re.compile(rf"(?=(?<!\d)(\d+){between}(\d+)(?!\d))")
    answered = re.compile(r"(\d+) [+-] (\d+) =")  # the greeting names a held-out pair, not its sum
    sums = 0
    for conversation in drawn:
        for message in conversation.messages:
            if "ount" in message["content"] or "numbers" in message["content"]:
                continue  # "Count from 12 to 19" is no sum
            pair = answered if message["role"] == "assistant" else asked
            for a, b in pair.findall(message["content"]):
                sums += 1
                small = int(a) < 1000 and int(b) < 1000
                assert not (small and held_out(int(a), int(b))), message
    assert sums > 30_000


def test_every_sum_in_the_corpus_is_right(drawn: list[Conversation]) -> None:
    for conversation in drawn:
        for message in conversation.messages:
            for a, sign, b, total in re.findall(r"(-?\d+) ([+-]) (\d+) = (-?\d+)$", message["content"]):
                assert int(total) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


@pytest.mark.parametrize(
    ("scratchpad", "expected"),
    [
        (addition(145, 278), ("5+8=13\n4+7+1=12\n1+2+1=4", "145 + 278 = 423")),
        (addition(999, 1), ("9+1=10\n9+0+1=10\n9+0+1=10", "999 + 1 = 1000")),
        (addition(7, 12), ("7+2=9\n0+1=1", "7 + 12 = 19")),
        (addition(0, 0), ("0+0=0", "0 + 0 = 0")),
        (subtraction(423, 278), ("13-8=5\n12-7-1=4\n4-2-1=1", "423 - 278 = 145")),
        (subtraction(500, 1), ("10-1=9\n10-0-1=9\n5-0-1=4", "500 - 1 = 499")),
        (subtraction(12, 30), ("12<30, 30-12\n10-2=8\n3-1-1=1", "12 - 30 = -18")),
        (subtraction(8, 8), ("8-8=0", "8 - 8 = 0")),
    ],
)
def test_scratchpad(scratchpad: tuple[str, str], expected: tuple[str, str]) -> None:
    assert scratchpad == expected


def test_every_line_of_a_scratchpad_is_right() -> None:
    rng = Random(5)
    for _ in range(2000):
        a, b = trained_pair(rng)
        for lines, answer in (addition(a, b), subtraction(a, b)):
            for line in lines.splitlines():
                if "=" in line:
                    left, right = line.split("=")
                    numbers = [int(number) for number in re.findall(r"\d+", left)]
                    rest = sum(numbers[1:])
                    assert int(right) == numbers[0] + (rest if "+" in left else -rest)
            assert int(answer.split()[-1]) == (a + b if "+" in answer else a - b)


def test_the_benchmark_prompts_are_known(drawn: list[Conversation]) -> None:
    asked = {message["content"] for each in drawn for message in each.messages}
    assert {
        "What is Python in one sentence?",
        "Write a Python function to check if a number is prime.",
        "Is 17 a prime number? Explain.",
        "Write a haiku about AI.",
    } <= asked
    assert "What is 145 + 278?" not in asked  # held out: the answer must be worked out


def test_conversations_vary(drawn: list[Conversation]) -> None:
    roles = {tuple(message["role"] for message in each.messages) for each in drawn}
    assert ("user", "assistant") in roles
    assert ("system", *("user", "assistant") * 4) in roles
    assert ("user", "assistant", "tool", "assistant") in roles
    assert all(each.messages[-1]["role"] == "assistant" for each in drawn)
    assert 0.37 < sum(each.thinking for each in drawn) / len(drawn) < 0.43


def test_only_the_last_answers_are_thought_through(drawn: list[Conversation]) -> None:
    for each in drawn:
        thoughts = [bool(message.get("reasoning_content")) for message in each.messages]
        assert thoughts[-1] == each.thinking
        question = max(i for i, m in enumerate(each.messages) if m["role"] == "user")
        assert not any(thoughts[:question])


def test_a_call_names_a_tool_on_offer() -> None:
    rng = Random(1)
    for _ in range(200):
        tools, question, call = offer(rng)
        (schema,) = [t["function"] for t in tools if t["function"]["name"] == call["name"]]
        ((parameter, place),) = call["arguments"].items()
        assert parameter in schema["parameters"]["properties"]
        assert place in question
        returned, answer = result(call, rng)
        assert answer.startswith(f"{place}: ")
        assert answer.removeprefix(f"{place}: ") in returned
