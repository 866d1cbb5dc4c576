"""These tests hold nodes to seconds that were promised, so they are not run beside any others: see
`scripts/test`."""

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("timed")
