"""A node, as its owner tends to the models on its disk."""

import ssl
from collections.abc import AsyncGenerator
from urllib.parse import quote

import msgspec

from exo.cards import Progress
from exo.http.remote import Remote
from exo.wire import downloads as wire

# A node that looks whether the gigabytes on its disk are still the right ones says nothing meanwhile.
_SILENCE = 600.0


class Owner(Remote):
    """Raises what the node answers, as `Remote` does."""

    def __init__(self, url: str, *, key: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(url, key=key, silence=_SILENCE, tls=tls)

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Has the node download it, and says how far it is. Closing stops the download."""
        body = msgspec.json.encode({"model": model})
        headers = {"Content-Type": "application/json", **self._authorization()}
        with self._their_errors_as_ours():
            async with await self._ask("POST", "/api/pull", headers, body) as answer:
                async for line in answer.content:
                    if step := wire.decode_line(line):
                        yield step

    async def delete(self, model: str) -> None:
        """Takes it off the node's disk."""
        with self._their_errors_as_ours():
            async with await self._ask("DELETE", f"/models/{quote(model)}", self._authorization()):
                pass
