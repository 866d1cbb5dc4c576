"""Serves converted models as the Hugging Face hub does, as far as a pull asks: rkllama fetches from here.

On the board: `HF_ENDPOINT=http://THIS:8099 rkllama`, then `exo pull local/NAME/FILE.rkllm --url http://BOARD:8080`.
Only whole models are served, those with a card, and only their own files; nothing can be written.
"""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Mapping
from urllib.parse import unquote, urlsplit

from rkllm_convert import card, steps
from rkllm_convert.errors import BadInput, NotReady

OWNER = "local"
"""The user that all repositories here belong to."""
_FILE = re.compile(rf"/{OWNER}/([^/]+)/resolve/([^/]+)/([^/]+)")
_INFO = re.compile(rf"/api/models/{OWNER}/([^/]+)(/revision/[^/]+)?")
_TREE = re.compile(rf"/api/models/{OWNER}/([^/]+)/tree/[^/]+")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK = 1 << 18


class Shelf:
    """The models in a folder, looked for at each request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checksums: dict[tuple[Path, int, int], str] = {}

    def models(self) -> dict[str, dict[str, Any]]:
        """Cards by name."""
        found = {}
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if (path / card.CARD).is_file() and not path.name.startswith("."):
                found[path.name] = card.read(path)
        return found

    def files(self, name: str) -> dict[str, Path]:
        """A model's files by name; empty for one that is not here. Names are compared, never joined."""
        if name not in self.models():
            return {}
        return {each.name: each for each in sorted((self._folder / name).iterdir()) if each.is_file()}

    def commit(self, name: str) -> str:
        """What stands for the version of a model: its card's checksum, as long as a commit."""
        return self.checksum(self.files(name)[card.CARD])[:40]

    def checksum(self, path: Path) -> str:
        """The SHA-256 of a file; of the weights the card's, which need not be read for it."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._checksums:
            described = card.read(path.parent)
            known = path.name == described["file"] and stat.st_size == described["bytes"]
            self._checksums[key] = described["sha256"] if known else steps.sha256(path)
        return self._checksums[key]


def server(shelf: Shelf, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; `serve_forever` serves. Raises `NotReady` for an address that cannot be had."""

    class Handler(_Handler):
        models = shelf

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise NotReady(f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error


class _Handler(BaseHTTPRequestHandler):
    models: Shelf
    protocol_version = "HTTP/1.1"
    server_version = "rkllm-convert"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            file, info, tree = _FILE.fullmatch(path), _INFO.fullmatch(path), _TREE.fullmatch(path)
            if file:
                self._file(file[1], file[2], file[3])
            elif info:
                self._info(info[1])
            elif tree:
                self._tree(tree[1])
            else:
                self._refuse(404, "", "there is no such address here")
        except BadInput as error:
            self._refuse(500, "", error.message)

    def _info(self, name: str) -> None:
        files = self.models.files(name)
        if not files:
            self._refuse(404, "RepoNotFound", f"there is no model {name} here")
            return
        rows = [{"rfilename": each, "size": path.stat().st_size} for each, path in files.items()]
        self._json({"id": f"{OWNER}/{name}", "sha": self.models.commit(name), "siblings": rows})

    def _tree(self, name: str) -> None:
        files = self.models.files(name)
        if not files:
            self._refuse(404, "RepoNotFound", f"there is no model {name} here")
            return
        rows = [
            {
                "type": "file",
                "path": each,
                "size": path.stat().st_size,
                "oid": self.models.checksum(path)[:40],
            }
            for each, path in files.items()
        ]
        self._json(rows)

    def _file(self, name: str, revision: str, file: str) -> None:
        files = self.models.files(name)
        if not files:
            self._refuse(404, "RepoNotFound", f"there is no model {name} here")
            return
        commit = self.models.commit(name)
        if revision not in ("main", commit):
            self._refuse(404, "RevisionNotFound", f"{name} has changed since: ask for main")
            return
        if file not in files:
            self._refuse(404, "EntryNotFound", f"there is no {file} in {name}")
            return
        path = files[file]
        size, asked = path.stat().st_size, self.headers.get("Range")
        span = _span(asked, size)
        if span is None:
            self._refuse(416, "", f"{asked} is not within {size} bytes")
            return
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{self.models.checksum(path)}"',
            "Accept-Ranges": "bytes",
        }
        if asked:
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        self._head(206 if asked else 200, span[1] - span[0], "application/octet-stream", headers)
        if self.command == "GET":
            self._send(path, *span)

    def _send(self, path: Path, start: int, end: int) -> None:
        with path.open("rb") as opened:
            opened.seek(start)
            while start < end:
                chunk = opened.read(min(_CHUNK, end - start))
                if not chunk:  # it was replaced meanwhile, and its length has been promised
                    self.close_connection = True
                    return
                self.wfile.write(chunk)
                start += len(chunk)

    def _json(self, body: object) -> None:
        content = json.dumps(body).encode()
        self._head(200, len(content), "application/json", {})
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, message: str) -> None:
        content = json.dumps({"error": message}).encode()
        headers = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self._head(status, len(content), "application/json", headers)
        if self.command == "GET":
            self.wfile.write(content)

    def _head(self, status: int, length: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _span(asked: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one behind the last; None for what is not within the file."""
    if not asked:
        return 0, size
    match = _RANGE.fullmatch(asked.strip())
    if match is None:
        return None
    start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end else None
