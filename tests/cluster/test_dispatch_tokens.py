"""Tokens over several nodes: real HTTP between them, scripted models on them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, Message
from exo.engine import SpellRequest, spelled
from exo.engines.scripted import Fail
from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotReady
from exo.http import openai_routes, token_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.settings import HttpSettings
from tests.cluster.test_dispatch import Machine

HI = Message("user", "hi")
SECRET = b"shared"


class Node(Machine):
    async def start(self) -> None:
        desk = Desk(self.node, Metrics("0", ()), HttpSettings(), lambda: None, self.secret)
        app = build(desk, openai_routes.routes(), token_routes.routes())
        self.server = TestServer(app, handler_cancellation=True)
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")


class Nodes(AsyncExitStack):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    async def add(self, *ids: str, secret: bytes | None = None) -> list[Node]:
        nodes = [Node(id, self._folder / id, waiting=64, secret=secret) for id in ids]
        for node in nodes:
            node.peers = [other for other in nodes if other is not node]
            await node.start()
            for end in (node.residency.close, node.stop, node.node.close):
                self.push_async_callback(end)
        return nodes


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with Nodes(tmp_path) as nodes:
        yield nodes


def prompt(via: str = "") -> ChatRequest:
    return ChatRequest(model="m", prompt="hü", via=via)


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_the_node_that_has_the_model_tells_them(nodes: Nodes, secret: bytes | None) -> None:
    here, there = await nodes.add("here", "there", secret=secret)
    await there.put("m")
    assert bytes(await here.node.tokens(prompt())) == "hü".encode()
    assert bytes(await here.node.tokens(ChatRequest(model="m", messages=(HI, HI)))) == b"hi\nhi"
    assert "m" in there.residency.residents
    asked = SpellRequest(model="m", tokens=tuple("hü".encode()))
    assert await here.node.spell(asked) == (b"h", b"\xc3", b"\xbc")
    assert spelled(await there.node.spell(asked)) == "hü"


async def test_a_token_beyond_the_vocabulary_is_named_over_there_too(nodes: Nodes) -> None:
    here, there = await nodes.add("here", "there")
    await there.put("m")
    with pytest.raises(BadRequest, match="token 300 is not in the vocabulary of 'm'") as refused:
        await here.node.spell(SpellRequest(model="m", tokens=(1, 300)))
    assert refused.value.param == "tokens[1]"


async def test_what_is_passed_on_goes_no_further(nodes: Nodes) -> None:
    here, there = await nodes.add("here", "there")
    await there.put("m")
    heard: list[ChatRequest | SpellRequest] = []
    tokens, spell = there.node.tokens, there.node.spell

    async def hear_tokens(request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        heard.append(request)
        return await tokens(request, begin=begin)

    async def hear_spell(request: SpellRequest) -> tuple[bytes, ...]:
        heard.append(request)
        return await spell(request)

    there.node.tokens, there.node.spell = hear_tokens, hear_spell  # type: ignore[method-assign]
    await here.node.tokens(msgspec.structs.replace(prompt(), client="me", id="r"))
    await here.node.spell(SpellRequest(model="m", tokens=(), client="me", id="r"))
    assert [(each.via, each.client, each.id) for each in heard] == [("here", "me", "r")] * 2
    with pytest.raises(ModelNotFound):
        await here.node.tokens(prompt(via="third"))
    with pytest.raises(ModelNotFound):
        await here.node.spell(SpellRequest(model="m", tokens=(), via="third"))


async def test_the_next_best_node_is_asked_where_one_fails(nodes: Nodes) -> None:
    here, there = await nodes.add("here", "there")
    await here.put("m", load=(Fail("broken"),))
    await there.put("m")
    assert bytes(await here.node.tokens(prompt())) == "hü".encode()
    assert await here.node.spell(SpellRequest(model="m", tokens=(104,))) == (b"h",)


async def test_where_it_fails_on_all_the_reason_is_told(nodes: Nodes) -> None:
    here, there = await nodes.add("here", "there")
    for node in (here, there):
        await node.put("m", load=(Fail("broken"),))
    with pytest.raises(EngineFailed, match="broken"):
        await here.node.tokens(prompt())


async def test_a_node_that_is_gone_is_told_of(nodes: Nodes) -> None:
    here, there = await nodes.add("here", "there")
    await there.put("m")
    await there.stop()
    with pytest.raises(NotReady, match="there"):
        await here.node.tokens(prompt())


async def test_a_node_without_the_secret_is_refused(nodes: Nodes) -> None:
    here, there = await nodes.add("here", "there")
    there.secret = SECRET
    await there.stop()
    await there.start()
    await there.put("m")
    with pytest.raises(NotReady, match=r"there does not let .* does not have this cluster's secret"):
        await here.node.tokens(prompt())
