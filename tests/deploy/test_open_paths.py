"""What is open through a balancer is decided for every route of a node."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from aiohttp import web

from exo.http import (
    anthropic_routes,
    cluster_routes,
    download_routes,
    ollama_routes,
    openai_routes,
    responses_routes,
    service_routes,
    shard_routes,
    token_routes,
    watch_routes,
)
from exo.http.app import Dialect
from exo.http.kept_responses import KeptResponses

from .balancing import CLOSED, OPEN, routes

NOTHING = cast(Any, None)

TABLES = (
    openai_routes.routes(),
    responses_routes.routes(KeptResponses()),
    ollama_routes.routes(),
    anthropic_routes.routes(),
    cluster_routes.routes(),
    watch_routes.routes(NOTHING),
    download_routes.routes(NOTHING),
    shard_routes.routes(NOTHING),
    token_routes.routes(),
    service_routes.routes(),
)


def paths(tables: Iterable[Sequence[web.AbstractRouteDef] | Dialect]) -> set[tuple[str, str]]:
    listed = [route for table in tables for route in (table.routes if isinstance(table, Dialect) else table)]
    return {(route.method, route.path) for route in listed if isinstance(route, web.RouteDef)}


def test_every_route_is_open_or_closed() -> None:
    """A new one belongs into deploy/nginx/exo.conf and deploy/haproxy/exo.cfg if clients need it, and into
    one of the two lists of `balancing` either way."""
    decided = routes(OPEN) + routes(CLOSED)
    assert len(decided) == len({tuple(each) for each in decided}), "a route is in both, or twice"
    for method, path in paths(TABLES):
        pattern = re.compile(re.sub(r"\\\{\w+(:\\\.\\\+)?\\\}", "[^/]+", re.escape(path)))
        matched = [each for each in decided if each[0] == method and pattern.fullmatch(each[1])]
        assert matched, f"{method} {path} is neither open nor closed"
