"""What is counted by key."""

import re

from exo.chat import Usage
from exo.metrics import Metrics


def test_keys_that_come_and_go_without_end_are_one_label_in_the_end() -> None:
    metrics = Metrics("0", ())
    for number in range(1200):
        metrics.key_label(f"k{number}")
        metrics.asked_with(f"k{number}", "success", Usage(1, 2))
    said = metrics.exposition().decode()
    assert len(set(re.findall(r'key="([^"]*)"', said))) == 1001
    value = metrics.registry.get_sample_value
    assert value("exo_key_requests_total", {"key": "other", "status": "success"}) == 200
    assert value("exo_key_tokens_total", {"key": "other", "kind": "completion"}) == 400
