from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from exo.cluster import configuration
from exo.cluster.network import Place
from exo.cluster.settings import ClusterSettings

PLACE = Place((), 7447)


def rank(zid: int) -> bytes:
    """What Zenoh compares."""
    return zid.to_bytes(16, "little")


def test_each_newcomer_comes_after_all_before_it() -> None:
    there: list[int] = []
    for _ in range(2000):
        there.append(configuration.newcomer(there))
    assert all(rank(one) < rank(next) for one, next in pairwise(there))


@given(st.lists(st.integers(1, (1 << 128) - 1), max_size=8))
def test_ids_of_other_programs_do_not_use_up_those_of_newcomers(others: list[int]) -> None:
    zids = [configuration.newcomer(others) for _ in range(3)]
    assert len(set(zids)) == 3
    assert all(rank(zid)[:4] == b"\0\0\0\0" for zid in zids)


def test_an_id_is_written_as_zenoh_reads_it() -> None:
    written = configuration.session(ClusterSettings(), PLACE, (), 0x0FF0)["id"]
    assert written == "ff0", "it takes no leading zero"
