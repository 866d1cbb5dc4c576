"""A short run of `bench/hostile.py`, which has ten thousand requests of these kinds."""

from itertools import islice
from typing import Any

import msgspec
import pytest

from bench import hostile
from exo.wire import openapi

DOCUMENT: Any = msgspec.json.decode(openapi.document("0"))


def test_the_same_seed_makes_the_same_requests() -> None:
    first, again, other = (list(hostile.attacks(DOCUMENT, 200, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_there_are_requests_of_all_kinds() -> None:
    kinds = {attack.kind for attack in islice(hostile.attacks(DOCUMENT, 2000), 2000)}
    assert {"smuggling", "compressed", "leaving", "wrong value", "not JSON", "slow", "claims"} <= kinds
    assert len(kinds) == 19


@pytest.mark.parametrize(("npu", "requests"), [(False, 700), (True, 200)], ids=["exo", "rkllama"])
def test_a_server_stands_hostile_requests(npu: bool, requests: int) -> None:
    with hostile.server(npu) as (node, model):
        result = hostile.run(node, model, requests)
    assert len(result.outcomes) == requests
    assert list(result.faults) == []
