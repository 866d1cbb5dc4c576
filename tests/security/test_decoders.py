"""Whatever bytes come from the network, a disk or another process: what reads them gives a value or raises
the error that it promises, and nothing else. Decoders of requests have such a test beside their others, in
`tests/wire`, and so have GGUF files, checkpoints, Modelfiles, states, keys and configuration in their places.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from exo.cards import Span
from exo.cluster import certificates
from exo.cluster.discovery import parse_manual, parse_tailscale
from exo.cluster.states import StateCodec
from exo.engines import scripted
from exo.errors import ExoError
from exo.generation import folder
from exo.generation.vocabulary import Vocabulary
from exo.http.shard_stream import Frames, to_host
from exo.shards import frames as shard_frames
from exo.store import checkpoint, gguf, templates
from exo.store.catalogue import BUNDLED
from exo.wire import cluster, downloads, openai, shards
from exo.wire.shards import OpenShard
from rkllama.models import modelfile
from rkllama.process import frames as npu_frames

DEMO = BUNDLED / "exo-demo"
Reads = Callable[[bytes], object]


def from_file(name: str, read: Callable[[Path], object], *beside: str) -> Reads:
    """Reads it as a file of that name, in a folder of its own, or with files of the bundled model."""

    def reads(content: bytes) -> object:
        with tempfile.TemporaryDirectory() as place:
            for each in beside:
                (Path(place) / each).write_bytes((DEMO / each).read_bytes())
            file = Path(place) / name
            file.write_bytes(content)
            return read(file)

    return reads


def body(content: bytes) -> object:
    """Reads it as the frames of a body, to their end."""

    async def all_frames() -> list[object]:
        loop = asyncio.get_running_loop()
        stream = StreamReader(BaseProtocol(loop), 1 << 20, loop=loop)
        stream.feed_data(content)
        stream.feed_eof()
        reader, found = Frames(stream, to_host), list[object]()
        while (frame := await reader.next()) is not None:
            found.append(frame)
        return found

    return asyncio.run(all_frames())


HEAD = shard_frames.HEAD
OPEN = msgspec.msgpack.encode(OpenShard(model="m", span=Span(0, 2), slots=1, context=64))
BUNDLE = certificates.make_node_certificate(certificates.make_ca("a"), ["b"])
LOADED = npu_frames.Loaded("1.2.3", False)


def of_shard(message: Any) -> bytes:
    return shard_frames.encode(message)[HEAD.size :]


def of_npu(message: Any) -> bytes:
    return npu_frames.encode(message)[npu_frames.LENGTH.size :]


FREED = of_shard(shard_frames.Free(id=1, slot=0))
NO_MESSAGE = (ValueError, RecursionError)
"""What those who read from their own processes look out for themselves."""

DECODERS: dict[str, tuple[Reads, bytes, tuple[type[Exception], ...]]] = {
    "an answer to /v1/load": (cluster.decode_load_answer, b'{"model":"m","node":"n","seconds":1.5}', ()),
    "an answer to /v1/spread": (cluster.decode_spread_answer, b'{"model":"m","nodes":[]}', ()),
    "a plan": (shards.decode_plan_answer, b'{"model":"m","layers":1,"parts":[],"exact":true}', ()),
    "a line of a pull": (downloads.decode_line, b'{"status":"pulling a","total":3,"completed":1}', ()),
    "embeddings": (
        lambda content: openai.decode_embeddings_answer(content, 1),
        b'{"data":[{"index":0,"embedding":[1.0,2e308]}]}',
        (),
    ),
    "a list of models": (lambda content: openai.decode_models(content, "gguf"), b'{"data":[{"id":"m"}]}', ()),
    "an error": (lambda content: openai.decode_error(500, content), b'{"error":{"message":"x"}}', ()),
    "manual peers": (
        lambda content: parse_manual(content, "me", 52415),
        b'{"peers":{"a":{"address":"10.0.0.1","port":1}}}',
        (),
    ),
    "tailscale's status": (
        lambda content: parse_tailscale(content, 52415),
        b'{"BackendState":"Running","Peer":{"a":{"Online":true,"TailscaleIPs":["1.2.3.4"]}}}',
        (),
    ),
    "a node's state": (StateCodec("c", None).decode, b"\0" + msgspec.msgpack.encode({"protocol": 1}), ()),
    "a join bundle": (certificates.unpack, certificates.pack(BUNDLE), ()),
    "frames of a shard over HTTP": (body, HEAD.pack(len(OPEN), 0) + OPEN, (ConnectionError,)),
    "a frame's head": (lambda head: shard_frames.lengths(head.ljust(12, b"\0")[:12]), b"\1" + bytes(11), ()),
    "what a shard is told": (shard_frames.decode_to_worker, FREED, NO_MESSAGE),
    "what a shard says": (shard_frames.decode_from_worker, of_shard(shard_frames.Done(1)), NO_MESSAGE),
    "what one shard asks another": (shard_frames.decode_from_first, FREED, NO_MESSAGE),
    "what the NPU's process is told": (npu_frames.decode_to_worker, of_npu(npu_frames.Abort(1)), NO_MESSAGE),
    "what the NPU's process says": (npu_frames.decode_from_worker, of_npu(LOADED), NO_MESSAGE),
    "a script": (from_file("a.script.json", scripted.read), b'{"steps":[{"type":"text","text":"a"}]}', ()),
    "tokenizer.json": (
        from_file("tokenizer.json", lambda file: Vocabulary.read(file.parent)),
        b'{"added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}',
        (),
    ),
    "generation_config.json": (
        from_file("generation_config.json", lambda file: Vocabulary.read(file.parent), "tokenizer.json"),
        b'{"eos_token_id":[1,2]}',
        (),
    ),
    "tokenizer_config.json": (
        from_file("tokenizer_config.json", lambda file: folder.texts(file.parent), "tokenizer.json"),
        b'{"chat_template":[{"name":"default","template":"a"}],"bos_token":"a","eos_token":{"content":"b"}}',
        (),
    ),
    "a post-processor": (
        from_file("tokenizer.json", lambda file: _with_bos(file.parent)),
        b'{"post_processor":{"processors":[{"type":"TemplateProcessing",'
        b'"single":[{"SpecialToken":{"id":"a"}}]}]}}',
        (),
    ),
    "chat_template.jinja": (
        from_file("chat_template.jinja", lambda file: templates.shown_beside(file.parent.name, file.parent)),
        b"{{ messages }}<tool_call>",
        (),
    ),
    "a template in a folder": (
        from_file("chat_template.jinja", lambda file: folder.texts(file.parent)), b"{{ messages }}", ()
    ),
    "config.json": (
        from_file("config.json", lambda file: checkpoint.read(file.parent)),
        (DEMO / "config.json").read_bytes() if (DEMO / "config.json").exists() else b"{}",
        (),
    ),
    "a GGUF header": (from_file("a.gguf", gguf.read), b"GGUF\3\0\0\0" + bytes(16), ()),
    "a Modelfile": (from_file("Modelfile", modelfile.read), b'FROM="a"\nTEMPERATURE=0.5\n', ()),
}  # fmt: skip


def _with_bos(place: Path) -> object:
    (place / "tokenizer_config.json").write_text('{"bos_token": "a"}')
    return folder.texts(place)


def damaged(sample: bytes) -> st.SearchStrategy[bytes]:
    """What was right, with some of it gone, changed or said again."""

    def change(parts: tuple[int, int, bytes]) -> bytes:
        at, length, put = parts
        return sample[:at] + put + sample[at + length :]

    return st.tuples(st.integers(0, len(sample)), st.integers(0, 8), st.binary(max_size=8)).map(change)


NESTED = [
    b"-----BEGIN A-----" * 100_000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\x91" * 100_000,
    b"\x81\xa1a" * 100_000,
]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def reshaped(sample: bytes) -> st.SearchStrategy[bytes]:
    """The same JSON with another value at one of its places; anything for what is no JSON."""
    try:
        whole = json.loads(sample)
    except ValueError:
        return VALUES.map(msgspec.msgpack.encode)
    places = list(_places(whole))
    return st.tuples(st.sampled_from(places), VALUES).map(
        lambda change: json.dumps(_put(whole, *change)).encode()
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for step, inner in steps for place in _places(inner, (*path, step)))]


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {**value, step: _put(value[step], rest, new)}
    return [_put(each, rest, new) if place == step else each for place, each in enumerate(value)]


@pytest.mark.parametrize("name", DECODERS)
def test_it_is_read_or_refused(name: str) -> None:
    reads, sample, allowed = DECODERS[name]
    promised: tuple[type[Exception], ...] = (ExoError, *allowed)

    def read(content: bytes) -> None:
        with contextlib.suppress(*promised):
            reads(content)

    @given(st.binary(max_size=200) | damaged(sample) | reshaped(sample))
    def holds(content: bytes) -> None:
        read(content)

    holds()
    for content in (b"", sample, sample[:-1], sample * 2, b"\xff" * 100, b'{"a":"\xff"}', *NESTED):
        read(content)


NOT_READ = {"tokenizer.json", "embeddings", "an answer to /v1/spread", "a plan", "a node's state"}
"""Samples that lack something: with all of it they would be a page long."""


@pytest.mark.parametrize("name", sorted({*DECODERS} - NOT_READ))
def test_the_samples_are_read(name: str) -> None:
    """Else nothing would be tried but first bytes."""
    reads, sample, _ = DECODERS[name]
    reads(sample)
