"""A node of the command's own, where none runs on this machine."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from exo.chat import ChatRequest, Delta
from exo.cli.chat.route import Origin
from exo.http.automatic import NAMES, Automatic
from exo.node.local import LocalNode
from exo.settings import AutoSettings


class Here:
    """`asked.Asked` of a node that nobody else reaches. For "auto" it chooses as a node's HTTP side does."""

    where = "here, as no node runs on this machine"

    def __init__(self, node: LocalNode) -> None:
        self.node = node
        self._automatic = Automatic(AutoSettings())
        self._origin = Origin()

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self._origin = Origin(node=self.node.id)
        if request.model in NAMES:
            picked = self._automatic.choose(request, self.node.cluster(), self.node.explain)
            self._origin = Origin(node=self.node.id, model=picked.model, why=picked.why[0])
            request = msgspec.structs.replace(request, model=picked.model, thinking=picked.thinking)
        async with aclosing(self.node.respond(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def models(self) -> Sequence[str]:
        ids = [card.id for card in await self.node.cards()]
        return ["auto", *ids] if self._automatic.card(self.node.cluster()) else ids

    async def origin(self) -> Origin:
        return self._origin

    async def unload(self, model: str) -> None:
        await self.node.unload(model)
