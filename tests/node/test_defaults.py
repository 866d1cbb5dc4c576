import msgspec
import pytest

from exo.chat import ChatRequest, Message, Sampling
from exo.node.defaults import complete
from exo.settings import Defaults
from tests.doubles import card

HI = Message("user", "hi")


def test_what_a_request_leaves_open_is_filled_in() -> None:
    defaults = Defaults(model="m", temperature=0.5, max_tokens=10, system_prompt="Be brief.")
    done = complete(ChatRequest(model="", messages=(HI,)), card("m"), defaults)
    assert done.model == "m"
    assert done.messages == (Message("system", "Be brief."), HI)
    assert (done.sampling.temperature, done.sampling.max_tokens) == (0.5, 10)


def test_what_a_request_says_is_kept_but_for_the_cap() -> None:
    defaults = Defaults(model="m", temperature=0.5, max_tokens=10, system_prompt="Be brief.")
    asked = ChatRequest(
        model="mine",
        messages=(Message("system", "Be long."), HI),
        sampling=Sampling(temperature=0.0, max_tokens=99),
    )
    done = complete(asked, card("mine"), defaults)
    assert (done.model, done.messages) == ("mine", asked.messages)
    assert (done.sampling.temperature, done.sampling.max_tokens) == (0.0, 10)


@pytest.mark.parametrize(
    ("general", "own", "asked", "gets"),
    [
        (10, 40, None, 40),
        (10, 40, 99, 40),
        (10, 40, 20, 20),
        (40, 10, None, 10),
        (40, 10, 20, 10),
        (None, 10, 20, 10),
        (None, 10, None, 10),
    ],
)
def test_a_models_own_cap_goes_before_the_general_one_in_both_directions(
    general: int | None, own: int, asked: int | None, gets: int
) -> None:
    defaults = Defaults(max_tokens=general, max_tokens_for={"own": own})
    request = ChatRequest(model="", messages=(HI,), sampling=Sampling(max_tokens=asked))
    assert complete(request, card("own"), defaults).sampling.max_tokens == gets
    other = complete(request, card("other"), defaults).sampling.max_tokens
    assert other == (asked if general is None else min(asked or general, general))


def test_no_defaults_change_nothing() -> None:
    asked = ChatRequest(model="mine", messages=(HI,), sampling=Sampling(max_tokens=99))
    assert complete(asked, card("mine"), Defaults()) == asked


def test_the_models_own_defaults_go_before_the_nodes() -> None:
    own = msgspec.structs.replace(
        card("m"), sampling=Sampling(temperature=0.2, top_k=7), system="Be kind.", thinking=False
    )
    defaults = Defaults(temperature=0.5, system_prompt="Be brief.")
    done = complete(ChatRequest(model="m", messages=(HI,), sampling=Sampling(top_k=1)), own, defaults)
    assert done.messages[0] == Message("system", "Be kind.")
    assert done.sampling == Sampling(temperature=0.2, top_k=1)
    assert done.thinking is False


def test_a_prompt_without_template_gets_no_thinking_switch() -> None:
    own = msgspec.structs.replace(card("m"), thinking=True)
    assert complete(ChatRequest(model="m", prompt="1 + 1 ="), own, Defaults()).thinking is None
