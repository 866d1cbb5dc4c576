"""Another node of the cluster: a server that answers, and one that can be asked to make ready."""

from exo.errors import ConnectionLost, ExoError
from exo.http.headers import hop
from exo.http.remote import Remote
from exo.wire import cluster as wire


class Peer(Remote):
    """A `Remote` that brings models into memory, too. While it works it says so (see `http.patience`, and the
    keep-alive comments of an answer), so one that is silent is gone."""

    async def load(self, model: str, *, via: str, client: str = "") -> wire.LoadAnswer:
        """Has the model loaded there and nowhere else; `via` is the node that asks. Raises what the loading
        failed with there, and as `respond` does."""
        headers = hop(via, self._secret, client)
        return wire.decode_load_answer(await self._post("/v1/load", wire.LoadBody(model=model), headers))

    async def spread(self, model: str, nodes: int) -> wire.SpreadAnswer:
        """Has the model loaded on so many nodes. Raises as `load` does."""
        body = wire.SpreadBody(model=model, nodes=nodes)
        return wire.decode_spread_answer(await self._post("/v1/spread", body, {}))

    async def _post(self, path: str, body: wire.LoadBody | wire.SpreadBody, headers: dict[str, str]) -> bytes:
        headers = {"Content-Type": "application/json", **self._authorization(), **headers}
        with self._their_errors_as_ours():
            async with await self._ask("POST", path, headers, wire.encode(body)) as answer:
                return await answer.read()

    def _silent(self, seconds: float) -> ExoError:
        return ConnectionLost(f"{self._name} was silent for {seconds:g} s")
