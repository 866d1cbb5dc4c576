"""The chat page at `/`, and the files it is made of under `/page/`.

The table is made when the node starts, of the files that are in the package then: no path of a request is
ever looked up on the disk. All of it is open without the node's key, as it is the same for everyone and
holds nothing; what the page asks the API for needs the key like any other request.
"""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from exo.errors import NotFound

FOLDER = Path(__file__).parents[1] / "page"

_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Of the files that a browser asks for. Others in the folder, as licences, are not served."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked anew each time, for an answer without a body: a node that was updated has a new page at once.
    hdrs.CACHE_CONTROL: "no-cache",
    hdrs.VARY: hdrs.ACCEPT_ENCODING,
}


class Asset(msgspec.Struct, frozen=True):
    """A file as it is sent, and the same compressed by gzip. `tag` is its ETag, without the quotes."""

    body: bytes
    gzipped: bytes
    type: str
    tag: str


def assets(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """The page's files by the paths they are served at; `index.html` is at `/`.

    Raises `NotFound` naming the folder where there is no page in it, as in a package that was built without.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix in _TYPES]
    table = {_path(file.relative_to(folder)): _asset(file) for file in files}
    if "/" not in table:
        raise NotFound(f"there is no chat page in {folder}: install exo-rkllama again")
    return table


def routes(table: Mapping[str, Asset]) -> Sequence[web.AbstractRouteDef]:
    return [web.get(path, _handler(asset)) for path, asset in table.items()]


def _path(file: Path) -> str:
    return "/" if file.as_posix() == "index.html" else f"/page/{file.as_posix()}"


def _asset(file: Path) -> Asset:
    body = file.read_bytes()
    # Once, and not for each request: a third of the bytes for a phone, and no work for a board.
    gzipped = gzip.compress(body, mtime=0)
    return Asset(body, gzipped, _TYPES[file.suffix], hashlib.sha256(body).hexdigest()[:32])


def _handler(asset: Asset) -> Handler:
    # Weak, as it stands for the same file in two encodings.
    headers = {**_HEADERS, hdrs.ETAG: f'W/"{asset.tag}"'}
    whole = {**headers, hdrs.CONTENT_TYPE: asset.type}

    async def send(http: web.Request) -> web.StreamResponse:
        if any(known.value in (asset.tag, "*") for known in http.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        if "gzip" in http.headers.get(hdrs.ACCEPT_ENCODING, ""):
            return web.Response(body=asset.gzipped, headers={**whole, hdrs.CONTENT_ENCODING: "gzip"})
        return web.Response(body=asset.body, headers=whole)

    return send
