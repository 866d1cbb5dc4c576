"""Everything that can be configured, as one value made once, of flags, environment and file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from exo.cards import Dtype, Share
from exo.notify import Supervisor


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files for HTTPS: the certificate that clients are shown, with those of the CAs between behind it,
    and its key. With a `client_ca`, clients have to show one of that CA."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`keepalive` is the seconds of silence after which a stream gets a comment, `grace` those that answers
    under way get at shutdown. `max_body` is in bytes. With a `key`, or `keys` in the file of
    that name (see `exo.admission.keyfile`), every request must carry one as a bearer token; without, each
    address may send so many `requests_per_minute`. A `supervisor` is told how the server is."""

    host: str = "0.0.0.0"
    port: int = 52415
    keepalive: float = 5.0
    grace: float = 15.0
    max_body: int = 8 << 20
    cors_origins: tuple[str, ...] = ()
    key: str | None = None
    keys: Path | None = None
    requests_per_minute: int | None = None
    supervisor: Supervisor | None = None
    tls: TlsSettings | None = None

    @property
    def scheme(self) -> Literal["http", "https"]:
        """What clients speak to it."""
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        """Where it listens, as a client writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a request that leaves a choice open gets. `max_tokens` also caps what a request may ask; models
    named in `max_tokens_for` have a cap of their own in its place, be it more or less."""

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_tokens_for: Mapping[str, int] = {}
    system_prompt: str | None = None

    def most_tokens(self, model: str) -> int | None:
        """How long an answer of the model may be; None leaves it to the request."""
        return self.max_tokens_for.get(model, self.max_tokens)


class AutoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The models that "auto" chooses from; None leaves one to the node. A conversation that was raised to
    reasoning stays there for `sticky_seconds`."""

    quick: str | None = None
    reasoning: str | None = None
    sticky_seconds: float = 600.0


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Another server, whose models this node offers: the NPU server ("rkllm"), or any that speaks OpenAI's
    dialect. `url` is all that comes before "/v1"; with a `key`, it is sent as a bearer token."""

    kind: Literal["rkllm", "openai"]
    url: str
    key: str | None = None


class LayersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of models that can be split by layers: what their numbers are computed in, a folder for what is
    compiled for that, and which nodes have which layers of a model, where its owner has decided that."""

    dtype: Dtype = "auto"
    cache: Path | None = None
    splits: Mapping[str, tuple[Share, ...]] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One node's configuration.

    `folders` are looked through for models, later ones winning, and then the `upstreams`. `engine` limits
    the node to one engine: with "rkllm", which is the NPU server, it loads none itself. `memory` is in bytes
    for all models together; `waiting` requests may queue; `slots` run at once on a model that can batch;
    `context` caps what models offer; a model idle for `idle_seconds` is unloaded (None: never); an answer of
    which nothing comes for `silence` seconds after its turn came has failed, or for those that `silence_for`
    gives its model; those in `preload` are loaded at start, and it is not ready before `wait_for_peers` other
    nodes are there. Of a download at most `parallel_downloads` files come at once. Traces are sent to the
    collector whose URL is `traces`.
    """

    http: HttpSettings = HttpSettings()
    defaults: Defaults = Defaults()
    auto: AutoSettings = AutoSettings()
    node_id: str
    folders: tuple[Path, ...]
    upstreams: tuple[UpstreamSettings, ...] = ()
    engine: str | None = None
    layers: LayersSettings = LayersSettings()
    memory: int
    waiting: int = 64
    slots: int = 4
    context: int | None = None
    threads: int | None = None
    idle_seconds: float | None = 300.0
    silence: float = 900.0
    silence_for: Mapping[str, float] = {}
    wait_for_peers: int = 0
    parallel_downloads: int = 4
    preload: tuple[str, ...] = ()
    traces: str | None = None
