"""At which of its addresses another machine is reached."""

import pytest

from exo.choice.nearest import nearest

URL = "http://node:52415"


@pytest.mark.parametrize(
    ("theirs", "ours", "found"),
    [
        (("10.0.0.5", "192.168.1.5"), ("192.168.1.9",), "http://192.168.1.5:52415"),
        (("10.0.0.5", "192.168.1.5"), ("10.0.7.9", "172.16.0.1"), "http://10.0.0.5:52415"),
        (("fd00::5", "192.168.1.5"), ("fd00::9",), "http://[fd00::5]:52415"),
        ((), ("192.168.1.9",), URL),
        (("192.168.1.5",), (), URL),
    ],
)
def test_the_network_that_both_are_in_is_taken(
    theirs: tuple[str, ...], ours: tuple[str, ...], found: str
) -> None:
    assert nearest(URL, theirs, ours) == found


def test_a_bridge_for_containers_that_both_have_is_no_way_to_the_other() -> None:
    theirs, ours = ("172.17.0.1", "192.168.1.5"), ("172.17.0.1", "192.168.1.9")
    assert nearest(URL, theirs, ours) == "http://192.168.1.5:52415"


def test_a_node_on_the_same_machine_has_the_same_addresses() -> None:
    both = ("172.17.0.1", "192.168.1.5")
    assert nearest(URL, both, both) in {f"http://{each}:52415" for each in both}
    assert nearest(URL, ("127.0.0.1",), ("127.0.0.1",)) == "http://127.0.0.1:52415"
