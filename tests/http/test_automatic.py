"""What "auto" means to the node that is asked: over real HTTP, with models that say what they were asked."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from exo.cards import Capability, ModelCard
from exo.chat import ChatRequest, Delta, Finished, Message, Text
from exo.choice import routing
from exo.errors import ModelNotFound, NotReady
from exo.http import cluster_routes, ollama_routes, openai_routes
from exo.http.app import build
from exo.http.automatic import Automatic
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.nodes import Cluster, Device, Node, Speed
from exo.settings import AutoSettings, HttpSettings
from tests.doubles import served

EASY, HARD = "Hi there!", (
    "Prove step by step that the sum of the first n odd numbers is n squared, and determine how many of them "
    "it takes to get beyond 1,000 if each third one is left out."
)  # fmt: skip


def card(id: str, *, size: int = 0, capabilities: tuple[Capability, ...] = ("completion",)) -> ModelCard:
    return ModelCard(
        id=id, format="gguf", context=4096, bytes=size, memory=1, parameters=size, capabilities=capabilities
    )


QUICK = card("small", size=1_500_000_000)
THINKER = card("r1", size=7_000_000_000, capabilities=("completion", "thinking"))


def cluster(*cards: ModelCard, speeds: tuple[Speed, ...] = ()) -> Cluster:
    device = Device(name="test", cores=1, memory=1)
    node = Node(
        id="here",
        url="",
        version="0",
        device=device,
        cards=cards,
        loaded=(),
        waiting=0,
        budget=9,
        speeds=speeds,
    )
    return Cluster(me=node)


def fast(*models: str) -> tuple[Speed, ...]:
    return tuple(Speed(model=model, prefill=10_000.0, decode=500.0, load=0.01) for model in models)


def choose(
    automatic: Automatic, question: str, there: Cluster, *, name: str = "auto", **fields: Any
) -> tuple[str, str]:
    messages: Sequence[Message] = fields.pop("messages", (Message("user", question),))
    request = ChatRequest(model=name, messages=tuple(messages), **fields)
    picked = automatic.choose(request, there, partial(routing.explain, cluster=there))
    return picked.model, picked.kind


FAST = cluster(QUICK, THINKER, speeds=fast("small", "r1"))


def test_a_hard_question_goes_to_the_model_that_reasons_and_an_easy_one_does_not() -> None:
    assert choose(Automatic(AutoSettings()), EASY, FAST) == ("small", "quick")
    assert choose(Automatic(AutoSettings()), HARD, FAST) == ("r1", "reasoning")


@pytest.mark.parametrize(
    ("name", "model"), [("auto:quick", "small"), ("auto:reasoning", "r1")]
)  # fmt: skip
def test_who_says_what_is_wanted_gets_it(name: str, model: str) -> None:
    assert choose(Automatic(AutoSettings()), EASY, FAST, name=name)[0] == model
    assert choose(Automatic(AutoSettings()), HARD, FAST, name=name)[0] == model


def test_the_owner_names_the_models() -> None:
    other = card("other", size=2_000_000_000)
    there = cluster(QUICK, THINKER, other, speeds=fast("small", "r1", "other"))
    assert choose(Automatic(AutoSettings(quick="other")), EASY, there)[0] == "other"
    assert choose(Automatic(AutoSettings(reasoning="other")), HARD, there)[0] == "other"


def test_a_named_model_that_is_not_here_leaves_it_to_the_other() -> None:
    automatic = Automatic(AutoSettings(quick="small", reasoning="gone"))
    assert choose(automatic, HARD, FAST) == ("small", "quick")


def test_where_nothing_chats_there_is_nothing_to_choose() -> None:
    embedder = card("e", capabilities=("embedding",))
    with pytest.raises(ModelNotFound, match="none here that chats"):
        choose(Automatic(AutoSettings()), EASY, cluster(embedder))
    assert Automatic(AutoSettings()).card(cluster(embedder)) is None


def test_where_the_models_could_answer_at_another_time_that_is_said_and_not_that_the_question_is_wrong() -> (
    None
):
    leaving = msgspec.structs.replace(cluster(QUICK, THINKER).me, leaving=True)
    with pytest.raises(NotReady, match=r"small: .* here is shutting down"):
        choose(Automatic(AutoSettings()), EASY, Cluster(me=leaving))


def test_a_conversation_that_was_raised_stays_so_for_a_while_and_is_counted() -> None:
    now, seen = 100.0, list[str]()
    automatic = Automatic(
        AutoSettings(sticky_seconds=60), lambda picked: seen.append(picked.kind), lambda: now
    )
    talk = [Message("user", HARD)]
    assert choose(automatic, "", FAST, messages=talk)[1] == "reasoning"
    talk += [Message("assistant", "Done."), Message("user", "thanks")]
    assert choose(automatic, "", FAST, messages=talk)[1] == "reasoning"
    now += 61
    assert choose(automatic, "", FAST, messages=talk)[1] == "quick"
    assert seen == ["reasoning", "reasoning", "quick"]


def test_a_conversation_is_raised_for_the_client_whose_it_is() -> None:
    automatic, talk = Automatic(AutoSettings()), [Message("user", EASY)]
    assert choose(automatic, "", FAST, messages=talk, client="a", name="auto:reasoning")[1] == "reasoning"
    assert choose(automatic, "", FAST, messages=talk, client="b")[1] == "quick"
    assert choose(automatic, "", FAST, messages=talk, client="a")[1] == "reasoning"


def test_a_question_of_how_it_would_be_chosen_is_not_remembered() -> None:
    automatic = Automatic(AutoSettings())
    explain = partial(routing.explain, cluster=FAST)
    asked = ChatRequest(model="auto", messages=(Message("user", HARD),))
    assert automatic.pick(asked, FAST, explain).kind == "reasoning"
    later = [*asked.messages, Message("assistant", "Done."), Message("user", "thanks")]
    assert choose(automatic, "", FAST, messages=later)[1] == "quick"


def test_thinking_that_takes_minutes_has_to_pay_more() -> None:
    slow = cluster(
        QUICK, THINKER, speeds=(*fast("small"), Speed(model="r1", prefill=9.0, decode=0.1, load=1.0))
    )
    assert choose(Automatic(AutoSettings()), HARD, slow) == ("small", "quick")


# Over HTTP


class Saying:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.asked.append(request)
        yield Text(request.model)
        yield Finished("stop")


class Here:
    """A node with both models."""

    def __init__(self) -> None:
        self.saying = Saying()
        self.metrics = Metrics("0", ())
        choices = self.metrics.choices
        automatic = Automatic(AutoSettings(), lambda picked: choices.labels(picked.kind, picked.model).inc())
        node = served(self.saying, QUICK, THINKER)
        node.cluster = lambda: FAST  # type: ignore[method-assign]
        self.desk = Desk(node, self.metrics, HttpSettings(), lambda: None, automatic=automatic)

    async def __aenter__(self) -> TestClient[Any, Any]:
        app = build(self.desk, openai_routes.routes(), ollama_routes.routes(), cluster_routes.routes())
        self._client = TestClient(TestServer(app))
        await self._client.start_server()
        return self._client

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()


async def test_every_dialect_can_leave_the_choice_to_the_node() -> None:
    here = Here()
    async with here as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": HARD}]}
        answer = await client.post("/v1/chat/completions", json=body)
        assert (await answer.json())["model"] == "r1"
        assert answer.headers["x-exo-route"].startswith("auto: reasoning, as ")
        answer = await client.post("/api/chat", json={**body, "stream": False})
        assert (await answer.json())["model"] == "r1"
        assert answer.headers["x-exo-route"].startswith("auto: reasoning")
        body["messages"] = [{"role": "user", "content": EASY}]
        answer = await client.post("/v1/chat/completions", json={**body, "stream": True})
        assert b'"model":"small"' in await answer.read()
        assert answer.headers["x-exo-route"].startswith("auto: quick")
    assert [request.model for request in here.saying.asked] == ["r1", "r1", "small"]
    assert b'exo_auto_choices_total{kind="reasoning",model="r1"} 2.0' in here.metrics.exposition()
    assert b'exo_auto_choices_total{kind="quick",model="small"} 1.0' in here.metrics.exposition()


async def test_clients_are_shown_that_there_is_a_choice() -> None:
    async with Here() as client:
        listed = (await (await client.get("/v1/models")).json())["data"]
        assert (listed[0]["id"], listed[0]["owned_by"]) == ("auto", "exo")
        assert {model["id"] for model in listed} == {"auto", "small", "r1"}
        assert (await (await client.get("/v1/models/auto")).json())["id"] == "auto"


async def test_what_would_be_chosen_can_be_asked() -> None:
    async with Here() as client:
        url = "/v1/route/explain"
        said = await (await client.get(url, params={"model": "auto", "question": HARD})).json()
        assert said["model"] == "r1"
        assert said["auto"]["kind"] == "reasoning"
        assert said["auto"]["probability"] > 0.5
        assert said["auto"]["why"][0].startswith("auto: reasoning")
        assert [route["node"] for route in said["routes"]] == ["here"]
        plain = await (await client.get(url, params={"model": "small"})).json()
        assert "auto" not in plain
        for params, words in (
            ({"model": "auto"}, "add &question=TEXT"),
            ({"model": "small", "question": "x"}, "for auto only"),
        ):
            refused = await client.get(url, params=params)
            error = (await refused.json())["error"]
            assert (refused.status, error["param"]) == (400, "question")
            assert words in error["message"]


async def test_a_request_of_another_node_is_for_the_model_it_names() -> None:
    here = Here()
    async with here as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": HARD}]}
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-exo-hop": "far"})
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "model_not_found"
