"""Every message that nodes send each other, as a value, as bytes and back.

    python -m tests.wire.compat.samples

writes this version's bytes to a folder of its release, where they stay: later releases have to read them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import exo
from exo.cards import ModelCard, Share, Span
from exo.chat import ChatRequest, EmbedRequest, Message, Sampling, SoFar, Tool, ToolCall
from exo.cluster.states import State, StateCodec
from exo.http.shard_stream import FromHost, ToHost
from exo.nodes import Cluster, Device, Node, Prefix, Residence, Speed
from exo.shards import frames
from exo.shards.frames import Drawn, Failed, Free, Hidden, Odds, Opened, Progress, Step
from exo.wire import cluster, openai
from exo.wire.cluster import LoadAnswer, LoadBody
from exo.wire.shards import Beat, OpenShard

HERE = Path(__file__).parent
SECRET = b"the cluster's secret"

_CARD = ModelCard(
    id="qwen2.5-1.5b-instruct",
    format="safetensors",
    context=4096,
    bytes=3_000_000_000,
    memory=3_200_000_000,
    architecture="qwen2",
    parameters=1_500_000_000,
    layers=28,
    split=(Share("board-1", Span(0, 14)), Share("board-2", Span(14, 28))),
    quantization="BF16",
    capabilities=("completion", "tools"),
    sampling=Sampling(temperature=0.7),
)
_NODE = Node(
    id="board-1",
    url="http://192.0.2.1:52415",
    version="0.1.0",
    device=Device(
        name="orangepi5",
        cores=8,
        memory=16 << 30,
        kind="rockchip",
        chip="RK3588",
        free=9 << 30,
        temperature=51.5,
        npu_load=0.25,
    ),
    cards=(_CARD,),
    loaded=(
        Residence(
            model=_CARD.id,
            state="ready",
            bytes=3_200_000_000,
            slots=4,
            running=1,
            used=7,
            idle=0.5,
            expires_in=9.5,
        ),
    ),
    waiting=2,
    queue=64,
    budget=12 << 30,
    speeds=(Speed(model=_CARD.id, prefill=120.0, decode=16.7, load=4.0, answer=91.0),),
    prefixes=(Prefix(_CARD.id, (1, 2, 2**63)),),
    addresses=("192.0.2.1", "2001:db8::1"),
    formats=("gguf", "safetensors"),
    npu_servers=("http://localhost:8080",),
)
_STATE = State(incarnation="0011223344556677", sequence=42, hears={"board-2": "8899aabbccddeeff"}, node=_NODE)
_CHAT = ChatRequest(
    model=_CARD.id,
    messages=(
        Message("system", "Be brief."),
        Message("user", "What is 145 + 278?"),
        Message("assistant", "", tool_calls=(ToolCall(0, "call_1", "add", '{"a": 145, "b": 278}'),)),
        Message("tool", "423", tool_call_id="call_1"),
    ),
    tools=(Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}}),),
    sampling=Sampling(temperature=0.0, max_tokens=64, seed=7),
    stop=("\n\n",),
)
_CONTINUED = ChatRequest(
    model=_CARD.id,
    messages=(Message("user", "Count to three."),),
    so_far=SoFar(text="One, two", reasoning="Hm."),
)


class Sample(msgspec.Struct, frozen=True):
    """A message: what it says, its bytes, and the same from bytes. With `strict`, a field that is not known
    is refused by name; else it is skipped."""

    value: Any
    sent: bytes
    read: Callable[[bytes], Any]
    strict: bool = False
    form: str = "msgpack"


def _chat(request: ChatRequest) -> Sample:
    """A request as the next node gets it; what it is there is compared with what it is here today."""
    body = openai.encode_chat(request)

    def read(sent: bytes) -> Any:
        return openai.decode_chat(sent, id="a").request

    return Sample(read(body), body, read, strict=True, form="json")


def _frame(kind: Any) -> Callable[[Any], Sample]:
    read = msgspec.msgpack.Decoder(kind).decode
    return lambda value: Sample(value, msgspec.msgpack.encode(value), read)


_to_host, _from_host = _frame(ToHost), _frame(FromHost)
_open, _signed = StateCodec("exo", None), StateCodec("exo", SECRET)
_EMBED = EmbedRequest(model=_CARD.id, texts=("one", "two"))
_ANSWER = LoadAnswer(model=_CARD.id, node="board-1", seconds=3.5)
_LINKED = Step(id=3, slot=1, position=9, want="last")
_DRAWN = Drawn(4, 17, Odds(-0.1, ((17, -0.1),)), complete=True)
_CLUSTER = Cluster(me=_NODE, peers=())

SAMPLES: Mapping[str, Sample] = {
    "state": Sample(_STATE, _open.encode(_STATE), _open.decode),
    "state-signed": Sample(_STATE, _signed.encode(_STATE), _signed.decode),
    "chat": _chat(_CHAT),
    "chat-continued": _chat(_CONTINUED),
    "embeddings": Sample(
        _EMBED.texts,
        openai.encode_embeddings(_EMBED),
        lambda body: openai.decode_embeddings(body, id="a").request.texts,
        strict=True,
        form="json",
    ),
    "load": Sample(
        LoadBody(model=_CARD.id),
        cluster.encode(LoadBody(model=_CARD.id)),
        cluster.decode_load,
        strict=True,
        form="json",
    ),
    "load-answer": Sample(_ANSWER, cluster.encode(_ANSWER), cluster.decode_load_answer, form="json"),
    "cluster": Sample(
        _CLUSTER,
        msgspec.json.encode(_CLUSTER),
        lambda body: msgspec.json.decode(body, type=Cluster),
        form="json",
    ),
    "shard-open": _to_host(OpenShard(model=_CARD.id, span=Span(14, 28), slots=4, context=4096, engine="mlx")),
    "shard-step": _to_host(Step(id=1, slot=0, position=128, want="last")),
    "shard-free": _to_host(Free(id=2, slot=0)),
    "shard-beat": _to_host(Beat()),
    "shard-progress": _from_host(Progress(0.5)),
    "shard-opened": _from_host(Opened(1536, 1_500_000_000, "a1b2")),
    "shard-hidden": _from_host(Hidden(1)),
    "shard-failed": _from_host(Failed("engine_failed", "out of memory", None, 1)),
    "link-step": Sample(_LINKED, msgspec.msgpack.encode(_LINKED), frames.decode_from_first),
    "link-drawn": Sample(_DRAWN, msgspec.msgpack.encode(_DRAWN), frames.decode_from_worker),
}


def file(release: Path, name: str) -> Path:
    return release / f"{name}.{SAMPLES[name].form}"


def releases() -> list[Path]:
    """Of whose messages there are samples."""
    return sorted(each for each in HERE.iterdir() if each.is_dir() and each.name[0].isdigit())


if __name__ == "__main__":
    into = HERE / exo.__version__
    into.mkdir(exist_ok=True)
    for name, sample in SAMPLES.items():
        file(into, name).write_bytes(sample.sent)
    print(f"{len(SAMPLES)} samples in {into}")
