"""Keys, and what is kept of them."""

import re

from hypothesis import given
from hypothesis import strategies as st

from exo.admission.keys import NAME, OWN, Key, digest, match, new_key, own_key


def test_a_key_is_256_bits_that_can_be_told_from_other_words() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"exo-[A-Za-z0-9_-]{43}", key) for key in keys)


def test_a_key_is_found_by_itself_alone() -> None:
    words = [new_key() for _ in range(5)]
    keys = [Key(name=f"k{number}", sha256=digest(word)) for number, word in enumerate(words)]
    for number, word in enumerate(words):
        found = match(keys, word)
        assert found is not None
        assert found.name == f"k{number}"
        assert match(keys, word[:-1]) is None
        assert match(keys, word + "x") is None
    assert match(keys, keys[0].sha256) is None, "what is in the file opens nothing"
    assert match([], words[0]) is None


@given(st.text())
def test_whatever_comes_in_a_header_is_no_key(given: str) -> None:
    raw = given.encode(errors="surrogatepass").decode(errors="surrogateescape")
    assert match([own_key("right")], raw) is None or given == "right"


def test_the_nodes_own_key_is_an_owners_without_limits() -> None:
    own = own_key("s3cret")
    assert (own.name, own.owner, own.limits.requests, own.limits.tokens) == (OWN, True, None, None)
    assert match([own], "s3cret") is own


def test_names_are_bounded() -> None:
    for name in ("a", "laptop", "Open-WebUI_2.0", "x" * 64):
        assert re.fullmatch(NAME, name)
    for name in ("", "x" * 65, "-a", ".a", "a b", "a/b", "a\n", "ä", 'a"'):
        assert not re.fullmatch(NAME, name)
