"""Headers that nodes send each other beside HTTP's own."""

import hmac

REQUEST_ID_HEADER = "x-request-id"
"""Names the request in the logs of every machine it crosses: `ChatRequest.id`."""

HOP_HEADER = "x-exo-hop"
"""Says which node passes the request on: `ChatRequest.via`. So nothing goes in circles."""

PROOF_HEADER = "x-exo-proof"
"""Proves to a cluster with a secret that the node of `HOP_HEADER` is one of it: see `proof`."""

ROUTE_HEADER = "x-exo-route"
"""On an answer: which node gave it, and why that one."""

CLIENT_HEADER = "x-exo-client"
"""Carries `ChatRequest.client` to the next server."""


def hop(node: str, secret: bytes | None, client: str = "") -> dict[str, str]:
    """The headers of a request that `node` passes on for `client`, with its proof where the cluster has a
    secret. "" is nobody: a request that no node passes on, or one for nobody in particular."""
    headers = {}
    if node:
        headers[HOP_HEADER] = node
        if secret is not None:
            headers[PROOF_HEADER] = proof(secret, node)
    if client:
        headers[CLIENT_HEADER] = client
    return headers


def proof(secret: bytes, node: str) -> str:
    """What only a node with the cluster's secret can say for `node`."""
    return hmac.digest(secret, b"exo-hop\0" + node.encode(), "sha256").hex()
