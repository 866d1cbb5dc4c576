"""Headers that nodes send each other beside HTTP's own."""

REQUEST_ID_HEADER = "x-request-id"
"""Names the request in the logs of every machine it crosses: `ChatRequest.id`."""

CLIENT_HEADER = "x-exo-client"
"""Carries `ChatRequest.client` to the next server."""
