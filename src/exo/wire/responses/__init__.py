"""OpenAI's Responses dialect without I/O, a server's side: bodies to values (`requests`), deltas to whole
responses (`answers`) and to events (`stream`).

Types are apart from both: `request_types` are what clients send, `answer_types` what they get. Between the
two is what is kept of a response, to be gone on with: `calls.KeptResponse`, lists of `items`.
"""

from exo.wire.responses.answers import begun, deleted_answer, items_answer, response_answer
from exo.wire.responses.calls import Find, KeptResponse, ResponseCall
from exo.wire.responses.requests import decode_response
from exo.wire.responses.stream import ResponseStream

__all__ = [
    "Find",
    "KeptResponse",
    "ResponseCall",
    "ResponseStream",
    "begun",
    "decode_response",
    "deleted_answer",
    "items_answer",
    "response_answer",
]
