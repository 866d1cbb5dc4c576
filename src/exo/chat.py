"""The language of a chat: what is asked, and the deltas of an answer.

Plain immutable values without behaviour. Every layer, from the HTTP dialects down to an engine on the
hardware, speaks these and nothing else, so a value that is legal here is legal everywhere. They are
msgspec structs because they also cross process boundaries as JSON.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
JsonSchema: TypeAlias = Mapping[str, Any]


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """A call the model makes, whole in a message's history, whole or in pieces in an answer.

    In a stream the first delta of an `index` carries `id` and `name`; later ones of the same index leave
    both empty and append to `arguments`, which is a JSON object as text once joined.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation. `tool_call_id` says which call a "tool" message answers, `reasoning` what
    the model had thought before this answer of its own; its chat template decides what it is shown again."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: JsonSchema = msgspec.field(default_factory=dict)


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are drawn. `None` leaves a choice to the model's card, then to the engine.

    Ranges (checked where a dialect is decoded): temperature 0-2, top_p (0, 1], min_p [0, 1], top_k >= 0
    with 0 for "off", penalties -2..2, repeat_penalty > 0 with 1 for "off", max_tokens >= 1.
    `logit_bias` maps token ids to additive biases of -100..100.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = msgspec.field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None


def filled(own: Sampling, base: Sampling) -> Sampling:
    """`own`, and what it leaves open from `base`."""
    return msgspec.structs.replace(base, **named(own))


def named(sampling: Sampling) -> dict[str, Any]:
    """What it says, by field, without what it leaves open."""
    fields = msgspec.structs.asdict(sampling)
    return {name: value for name, value in fields.items() if value not in (None, {})}


class SoFar(msgspec.Struct, frozen=True):
    """What of an answer has been said already, on a node that could not finish it, say: it is gone on with
    and not said again."""

    text: str = ""
    reasoning: str = ""


class Trace(msgspec.Struct, frozen=True):
    """Where in a trace over several machines a request is: the span that its work is part of, and what
    tracing systems say to each other, as W3C Trace Context writes them in `traceparent` and `tracestate`. ""
    is nowhere."""

    parent: str = ""
    state: str = ""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer wanted from one model; "" leaves the choice to the node's owner.

    Exactly one of `messages` (rendered through the model's chat template) and `prompt` (continued as it
    stands, without a template) is set. `stop` ends the answer before any of its strings; it looks at the
    answer only, never at the reasoning. `logprobs` is how many alternatives to report per token (0: the
    chosen one only), or None for no logprobs at all. `json_schema` and `grammar` (GBNF) constrain the
    answer; at most one is set. `must_call` names tools of which one has to be called; () leaves that to the
    model. Without `parallel_calls` there is one call at most. `thinking` switches a reasoning model's
    thinking on or off; None leaves it to the model. After `thinking_budget` tokens of thought it is made to
    answer; None lets it think as long as it likes. `so_far` is the beginning of the answer to `messages`.
    `id` names the request in logs on every machine it crosses, `client` who asks: queues are fair between
    clients. `via` is the node that passed it on: such a request is answered by this machine and goes no
    further. `trace` is what its work is part of.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    must_call: tuple[str, ...] = ()
    parallel_calls: bool = True
    logprobs: int | None = None
    json_schema: JsonSchema | None = None
    grammar: str | None = None
    thinking: bool | None = None
    thinking_budget: int | None = None
    so_far: SoFar | None = None
    id: str = ""
    client: str = ""
    via: str = ""
    trace: Trace = Trace()


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors wanted for `texts`, each truncated never and refused when longer than the context."""

    model: str
    texts: tuple[str, ...]
    id: str = ""
    client: str = ""
    via: str = ""
    trace: Trace = Trace()


class Embeddings(msgspec.Struct, frozen=True):
    """One L2-normalised vector per text, in order, and the tokens read for all of them."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


class Alternative(msgspec.Struct, frozen=True):
    """A token that was or could have been drawn; `logprob` is natural, before sampling filters."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(msgspec.Struct, frozen=True):
    """The drawn token and its likeliest alternatives, best first."""

    chosen: Alternative
    top: tuple[Alternative, ...] = ()


class Text(msgspec.Struct, frozen=True, tag="text"):
    """More of the answer: whole UTF-8 characters, usually one token's."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """More of what the model thinks before it answers, without its tags."""

    text: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer. `cached_tokens` of the prompt came from a KV cache; `reasoning_tokens` of
    the completion were thought, not said."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """Seconds the engine itself spent on the prompt and on the answer; zero where it cannot tell."""

    prefill: float = 0.0
    decode: float = 0.0


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The end of an answer that succeeded: comes once, last. A failure raises instead. `stop` is the stop
    string that ended it, where one did and that is known."""

    reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    stop: str = ""


Delta: TypeAlias = Text | Reasoning | ToolCall | Finished
