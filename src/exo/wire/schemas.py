"""How large a JSON Schema of a request may be: it crosses to peers and to native code, which both have
narrower limits than Python."""

from collections.abc import Iterable
from typing import Any

from exo.errors import BadRequest

DEPTH = 100
PARTS = 100_000
_INT64 = 2**63 - 1


def check(schema: Any, param: str) -> None:
    """Raises `BadRequest` naming `param` for a schema that is too deep, too large, or has a number that 64
    bits do not hold."""
    level, parts = [schema], 0
    for _ in range(DEPTH):
        parts += len(level)
        if parts > PARTS:
            raise BadRequest(f"{param} has more than {PARTS} parts", param=param)
        if any(isinstance(part, int) and not -_INT64 - 1 <= part <= _INT64 for part in level):
            raise BadRequest(f"{param} has an integer of more than 64 bits", param=param)
        level = [inner for part in level for inner in _inside(part)]
        if not level:
            return
    raise BadRequest(f"{param} is nested more than {DEPTH} levels deep", param=param)


def _inside(part: Any) -> Iterable[Any]:
    if isinstance(part, dict):
        return part.values()
    return part if isinstance(part, list) else ()
