"""A hub on this machine: what `huggingface_hub` asks and reads of one, and the ways in which it fails."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from aiohttp.test_utils import TestServer

COMMIT = "c0ffee" + "0" * 34


class Seen(NamedTuple):
    """A request as it came in."""

    method: str
    path: str
    range: str
    token: str
    agent: str


class Mirror:
    """Serves `files` of one repository. Large ones come from a second server, as the hub's do."""

    repository = "user/tiny"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.large = True
        self.seen: list[Seen] = []
        self.refuses: tuple[int, str] | None = None  # status and X-Error-Code of every answer
        self.token = ""  # is asked for, if there is one
        self.gated = ""  # is asked for files alone, as the hub does: what there is, everybody may know
        self.info: object = None  # instead of what the repository has
        self.cuts: list[int] = []  # bytes until the connection is lost, for each download to come
        self.held: dict[str, asyncio.Event] = {}  # files whose second half waits for it
        self.at_once = self.most_at_once = 0  # downloads
        self.takes_ranges = True
        self.tag: str | None = None  # instead of the checksum
        self.size: int | None = None  # instead of the true one
        self.url = ""
        self._elsewhere = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Mirror"]:
        hub, store = web.Application(), web.Application()
        hub.router.add_route("*", "/{user}/{name}/resolve/{revision}/{file:.+}", self._resolve)
        hub.router.add_get("/api/models/{user}/{name}", self._info)
        hub.router.add_get("/api/models/{user}/{name}/tree/main", self._tree)
        hub.router.add_route("*", "/{anything:.*}", self._else)
        store.router.add_get("/{file:.+}", self._store)
        async with TestServer(hub) as here, TestServer(store) as there:
            self.url = f"http://127.0.0.1:{here.port}"
            self._elsewhere = f"http://localhost:{there.port}"
            yield self

    def downloads(self) -> list[Seen]:
        """Requests that got bytes of a file."""
        return [
            seen for seen in self.seen if seen.method == "GET" and (not self.large or "/of/" in seen.path)
        ]

    async def _info(self, http: web.Request) -> web.Response:
        self._note(http)
        self._refuse(http)
        self._look_up(http)
        if self.info is not None:
            return web.json_response(self.info)
        assert http.query["blobs"], "else no sizes come"
        rows = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
        return web.json_response({"id": self.repository, "sha": COMMIT, "siblings": rows})

    def _look_up(self, http: web.Request) -> None:
        if f"{http.match_info['user']}/{http.match_info['name']}" != self.repository:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})

    async def _resolve(self, http: web.Request) -> web.StreamResponse:
        self._note(http)
        self._refuse(http)
        self._look_up(http)
        if self.gated and http.headers.get("Authorization") != f"Bearer {self.gated}":
            raise _Refusal(headers={"X-Error-Code": "GatedRepo"}, text="refused", status=403)
        file = http.match_info["file"]
        if file not in self.files:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        content = self.files[file]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.tag or tag_of(content, large=self.large)}"'}
        size = str(len(content) if self.size is None else self.size)
        if self.large:
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": size}
            return web.Response(status=302, headers={**headers, "Location": f"{self._elsewhere}/of/{file}"})
        if http.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": size})
        return await self._send(http, content)

    async def _store(self, http: web.Request) -> web.StreamResponse:
        self._note(http)
        return await self._send(http, self.files[http.match_info["file"].removeprefix("of/")])

    async def _send(self, http: web.Request, content: bytes) -> web.StreamResponse:
        start = 0
        if self.takes_ranges and (asked := http.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            raise web.HTTPRequestRangeNotSatisfiable
        response = web.StreamResponse(status=206 if self.takes_ranges else 200)
        response.content_length = len(content) - start
        if self.takes_ranges:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await response.prepare(http)
        end = start + self.cuts.pop(0) if self.cuts else len(content)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if held := self.held.get(http.path.rpartition("/")[2]):
                half = (start + end) // 2
                await response.write(content[start:half])
                await held.wait()
                start = half
            await response.write(content[start:end])
        finally:
            self.at_once -= 1
        if end < len(content):
            assert http.transport
            http.transport.close()
        return response

    async def _tree(self, http: web.Request) -> web.Response:
        self._note(http)
        self._refuse(http)
        rows = [
            {"type": "file", "oid": "0" * 40, "size": len(content), "path": name}
            for name, content in self.files.items()
        ]
        return web.json_response(rows)

    async def _else(self, http: web.Request) -> web.Response:
        self._note(http)
        raise web.HTTPNotFound

    def _note(self, http: web.Request) -> None:
        headers = http.headers
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        seen = Seen(http.method, http.path, headers.get("Range", ""), token, headers.get("User-Agent", ""))
        self.seen.append(seen)

    def _refuse(self, http: web.Request) -> None:
        refusal = self.refuses
        if self.token and http.headers.get("Authorization") != f"Bearer {self.token}":
            refusal = (401, "GatedRepo")
        if refusal:
            status, code = refusal
            raise _Refusal(
                headers={"X-Error-Code": code} if code else {}, text=f"refused with {status}", status=status
            )


class _Refusal(web.HTTPException):
    def __init__(self, *, status: int, text: str, headers: dict[str, str]) -> None:
        self.status_code = status
        super().__init__(headers=headers, text=text)


def tag_of(content: bytes, *, large: bool) -> str:
    """What the hub tags a file with: its SHA-256, or of a small one what git has."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
