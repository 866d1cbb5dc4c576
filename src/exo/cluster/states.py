"""What each node says of itself, and whether that is believed. Without I/O.

As bytes: one that says whether it is signed, the signature if it is, then the state in MessagePack. The
signature is HMAC-SHA256 over the cluster's name and the state. Fields a newer version adds are skipped, and
so are models of a kind that this version does not know, as it could send nothing to them; a state this
version cannot read is refused, never half read.

Nodes of two versions. What nodes say to each other (states, requests passed on, /v1/load, shards) has a
number, `PROTOCOL`. It grows when a node of the release before would get something wrong of it: a field that
is added does not count, as it is skipped, and what only some requests need is sent with those alone, which an
older node refuses by name. `OLDEST` is the lowest one that this version still works with; it is that of the
release before at most, so that a cluster can be upgraded node by node. Nodes that do not reach each other's
`OLDEST` leave each other out, and both say so.
"""

import hashlib
import hmac
from typing import Any

import msgspec

import exo
from exo.cards import ModelCard
from exo.errors import BadRequest, Unauthorized
from exo.nodes import Node

PROTOCOL = OLDEST = 1
"""Of this version; a state that names none is of 1."""

_UNSIGNED, _SIGNED = b"\x00", b"\x01"
_SIGNATURE = hashlib.sha256().digest_size


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A node's state. `incarnation` is random and made anew with each session, `sequence` grows with each
    state of it. `hears` is whose states the sender has, as incarnations by node id. It speaks `protocol`, and
    works with those from `oldest` on."""

    incarnation: str
    sequence: int
    hears: dict[str, str]
    node: Node
    protocol: int = 1
    oldest: int = 1


class _Version(msgspec.Struct, frozen=True):
    version: str = "an unknown version"


class _Head(msgspec.Struct, frozen=True):
    """What can be read of the state of any version, whatever else is in it."""

    protocol: int = 1
    oldest: int = 1
    node: _Version = _Version()


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
            _check_protocol(msgspec.msgpack.decode(body, type=_Head))
            try:
                return self._decoder.decode(body)
            except msgspec.ValidationError:
                return msgspec.convert(_without_unknown_models(msgspec.msgpack.decode(body)), State)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"its state cannot be read by this version: {error}") from error

    def _signature(self, secret: bytes, body: bytes) -> bytes:
        return hmac.digest(secret, self._name.encode() + b"\0" + body, "sha256")


def _check_protocol(theirs: _Head) -> None:
    if theirs.protocol < OLDEST:
        wanted, who = f"{OLDEST} or later", "that node"
    elif theirs.oldest > PROTOCOL:
        wanted, who = f"{PROTOCOL} at most", "this one"
    else:
        return
    raise BadRequest(
        f"it is {theirs.node.version} and speaks protocol {theirs.protocol}, and this node, "
        f"{exo.__version__}, works with {wanted}: upgrade {who}"
    )


def _without_unknown_models(state: Any) -> Any:
    """The state as plain values, less the cards that are none to this version: of a format, say, that came
    later. Of the models themselves nothing else depends on it."""
    node = state.get("node") if isinstance(state, dict) else None
    cards = node.get("cards") if isinstance(node, dict) else None
    if isinstance(node, dict) and isinstance(cards, list):
        node["cards"] = [card for card in cards if _is_card(card)]
    return state


def _is_card(card: object) -> bool:
    try:
        msgspec.convert(card, ModelCard)
    except msgspec.ValidationError:
        return False
    return True
