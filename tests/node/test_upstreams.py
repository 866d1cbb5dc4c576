from collections.abc import AsyncGenerator

from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest
from exo.engine import SpellRequest
from exo.errors import ExoError, NotReady
from exo.node.upstreams import Upstreams
from tests.doubles import card


class Server:
    """Has models, and is asked for none here."""

    slots = 2

    def __init__(self, *models: str, context: int = 0, hides: str = "") -> None:
        self.cards = tuple(card(model, memory=context) for model in models)
        self._hides = hides
        self.refreshed = 0

    def absent(self, model: str) -> ExoError | None:
        return NotReady(f"{model} is hidden") if model == self._hides else None

    async def refresh(self) -> None:
        self.refreshed += 1

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        raise NotImplementedError

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise NotImplementedError

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        raise NotImplementedError

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        raise NotImplementedError


def test_a_model_of_two_servers_is_the_first_ones() -> None:
    first, second = Server("both", context=1), Server("both", "own", context=2, hides="dark")
    upstreams = Upstreams([first, second], lambda: None)
    assert {model: card.memory for model, card in upstreams.cards.items()} == {"both": 1, "own": 2}
    assert upstreams.behind("both") is first
    assert upstreams.behind("own") is second
    assert upstreams.behind("none") is None
    assert (str(upstreams.absent("dark")), upstreams.absent("own")) == ("dark is hidden", None)


async def test_all_of_them_are_asked_again() -> None:
    servers = Server(), Server()
    await Upstreams(servers, lambda: None).refresh()
    assert [server.refreshed for server in servers] == [1, 1]


def test_requests_are_counted_for_as_long_as_they_are_passed_on() -> None:
    changes = []
    upstreams = Upstreams([Server("far", "here")], lambda: changes.append(1))

    def said() -> list[tuple[str, int, int]]:
        return [(each.model, each.running, each.waiting) for each in upstreams.residences({"here"})]

    with upstreams.counted("far"), upstreams.counted("far"), upstreams.counted("far"):
        assert said() == [("far", 2, 1)]
    assert said() == [("far", 0, 0)]
    assert len(changes) == 6
