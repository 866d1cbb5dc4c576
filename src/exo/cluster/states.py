"""What each node says of itself, and whether that is believed. Without I/O.

As bytes: one that says whether it is signed, the signature if it is, then the state in MessagePack. The
signature is HMAC-SHA256 over the cluster's name and the state. Fields a newer version adds are skipped;
a state this version cannot read is refused, never half read.
"""

import hashlib
import hmac

import msgspec

from exo.errors import BadRequest, Unauthorized
from exo.nodes import Node

_UNSIGNED, _SIGNED = b"\x00", b"\x01"
_SIGNATURE = hashlib.sha256().digest_size


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A node's state. `incarnation` is random and made anew with each session, `sequence` grows with each
    state of it. `hears` is whose states the sender has, as incarnations by node id."""

    incarnation: str
    sequence: int
    hears: dict[str, str]
    node: Node


class StateCodec:
    """States of one cluster, to bytes and back."""

    def __init__(self, name: str, secret: bytes | None) -> None:
        self._name, self._secret = name, secret
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(State)

    def encode(self, state: State) -> bytes:
        body = self._encoder.encode(state)
        if self._secret is None:
            return _UNSIGNED + body
        return _SIGNED + self._signature(self._secret, body) + body

    def decode(self, payload: bytes) -> State:
        """Raises `Unauthorized` for a state that is not signed as this cluster's are, `BadRequest` for one
        that cannot be read."""
        kind, rest = payload[:1], payload[1:]
        if kind not in (_UNSIGNED, _SIGNED):
            raise BadRequest("its state has a form this version does not know")
        if self._secret is None:
            if kind == _SIGNED:
                raise Unauthorized("its states are signed, and this node has no cluster secret")
            body = rest
        else:
            if kind == _UNSIGNED:
                raise Unauthorized("its states are not signed; it has no cluster secret")
            signature, body = rest[:_SIGNATURE], rest[_SIGNATURE:]
            if not hmac.compare_digest(signature, self._signature(self._secret, body)):
                raise Unauthorized("its states are signed with another cluster secret")
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise BadRequest(f"its state cannot be read by this version: {error}") from error

    def _signature(self, secret: bytes, body: bytes) -> bytes:
        return hmac.digest(secret, self._name.encode() + b"\0" + body, "sha256")
