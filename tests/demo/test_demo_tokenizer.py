"""The tokenizer that ships: learned as stated, able to write anything, every id in use."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from demo import tokenizer as demo_tokenizer

SHIPPED = Path(__file__).parents[2] / "src/exo/store/bundled/exo-demo/tokenizer.json"


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED))


def test_it_is_learned_from_seed_0(shipped: Tokenizer) -> None:
    assert demo_tokenizer.learn(seed=0).to_str() == shipped.to_str()


def test_it_is_rebuilt_from_its_lists(shipped: Tokenizer) -> None:
    lists = demo_tokenizer.tokens(shipped), demo_tokenizer.merges(shipped)
    assert demo_tokenizer.rebuild(*lists).to_str() == shipped.to_str()


def test_all_512_ids_mean_something(shipped: Tokenizer) -> None:
    assert shipped.get_vocab_size() == demo_tokenizer.SIZE == 512
    assert sorted(shipped.get_vocab().values()) == list(range(512))
    assert all(shipped.decode([id], skip_special_tokens=False) for id in range(512))


@pytest.mark.parametrize("text", ["".join(map(chr, range(256))), "你好 😀\r\n\t  don't", "e\u0301 é \ufeff"])
def test_any_text_survives(shipped: Tokenizer, text: str) -> None:
    assert shipped.decode(shipped.encode(text).ids, skip_special_tokens=False) == text


def test_every_digit_stands_alone(shipped: Tokenizer) -> None:
    assert shipped.encode("145+278").tokens == ["1", "4", "5", "+", "2", "7", "8"]
    assert shipped.encode("145 + 278").tokens == ["1", "4", "5", "Ġ+", "Ġ", "2", "7", "8"]


def test_added_tokens_are_one_id_and_only_control_tokens_are_hidden(shipped: Tokenizer) -> None:
    for token in demo_tokenizer.CONTROL + demo_tokenizer.MARKERS:
        encoded = shipped.encode(f"a{token}b")
        assert encoded.tokens == ["a", token, "b"]
        hidden = token in demo_tokenizer.CONTROL
        assert shipped.decode(encoded.ids) == ("ab" if hidden else f"a{token}b")


def test_an_unknown_token_has_no_id(shipped: Tokenizer) -> None:
    with pytest.raises(KeyError, match="nothing"):
        demo_tokenizer.token_id(shipped, "nothing")
