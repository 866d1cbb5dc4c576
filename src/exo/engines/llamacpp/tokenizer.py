"""What llama.cpp's tokenizer says, asked of the HTTP side of its server in this process.

xllamacpp 2026.10 hands out answers and embeddings by calls, but tokens over HTTP only, at a port on loopback
that it opens anyway. Each of these calls blocks for as long as that takes: a millisecond for a thousand
tokens, whatever the server's slots do.
"""

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from exo.errors import EngineFailed

# Seconds; a prompt of a million tokens takes a few.
_PATIENCE = 60.0


def tokens(server: Any, key: str, text: str, *, begin: bool) -> tuple[int, ...]:
    """The tokens of `text`, special ones written in it being themselves; with `begin` behind what the model
    begins every text with. Raises `EngineFailed`."""
    told = _ask(server, key, {"content": text, "add_special": begin, "parse_special": True})
    return tuple(told)


def pieces(server: Any, key: str, ids: Sequence[int]) -> tuple[bytes, ...]:
    """What is written for each of `ids`, all of which the vocabulary has. Raises as `tokens` does."""
    told = _ask(server, key, {"content": list(ids), "add_special": False, "with_pieces": True})
    return tuple(_bytes(token["piece"]) for token in told)


def _bytes(piece: str | list[int]) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _ask(server: Any, key: str, body: dict[str, Any]) -> list[Any]:
    # Not through urllib, which would go by the way of a proxy where one is set.
    connection = http.client.HTTPConnection(urlsplit(server.listening_address).netloc, timeout=_PATIENCE)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        connection.request("POST", "/tokenize", json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineFailed(f"llama.cpp does not tell its tokens: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise EngineFailed(f"llama.cpp does not tell its tokens: {said[:200].decode(errors='replace')}")
    told: list[Any] = json.loads(said)["tokens"]
    return told
