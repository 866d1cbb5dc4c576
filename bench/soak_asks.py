"""What the soak's clients ask, in every dialect, and what an answer comes to. Without I/O.

Everything is asked at temperature 0, so a question has one right answer: that of a quiet cluster.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from demo.sums import held_out_pairs

DEMO, LAYERS, NPU = "exo-demo", "demo-layers", "demo"
"""The bundled model by llama.cpp, the same by layers in a process of its own, and on the NPU."""
BOARD, NARROW, FLOOD = "board", "narrow", "flood"
"""Scripts: one that two nodes have, one that has room for few, and one that says very much."""
EXTRAS = ("extra-a", "extra-b", "extra-c")
"""Copies of the bundled model, of which one fits into memory beside the others."""

Said: TypeAlias = str | list[float]
"""An answer: its text, thoughts and calls, or an embedding."""


class Failed(Exception):
    """An answer that says it failed: HTTP's status, 200 for an event within a stream, and exo's code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code = status, code


class Wrong(Exception):
    """An answer that nothing excuses."""


class Ask(msgspec.Struct, frozen=True):
    """A request: `name` is what it is called in the report."""

    name: str
    path: str
    body: Mapping[str, Any]
    read: Callable[[bytes], Said]
    """The answer's whole body to what it says. Raises `Failed` for a failure, `Wrong` for what is neither."""

    @property
    def key(self) -> str:
        """The same for requests with the same answer."""
        return f"{self.path} {json.dumps(self.body)}"

    @property
    def model(self) -> str:
        return str(self.body["model"])


def same(one: Said, other: Said) -> bool:
    """Embeddings differ in their last digits by what was computed beside them."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return len(one) == len(other) and all(abs(a - b) < 0.02 for a, b in zip(one, other, strict=True))


def questions(count: int) -> list[str]:
    """Sums that the bundled model was not trained on."""
    return [f"What is {a} + {b}?" for a, b in held_out_pairs(count, 8)]


def asks(texts: Sequence[str]) -> list[Ask]:
    """Every kind of request, for each of the questions."""
    return [ask for text in texts for ask in _asks(text)]


def board(text: str) -> Ask:
    """A stream of some seconds, that another node can go on with."""
    return Ask("failover, streamed", *_chat(BOARD, text, stream=True), read_chat_stream)


def narrow(text: str) -> Ask:
    return Ask("full queue", *_chat(NARROW, text), read_chat)


def flood(text: str) -> Ask:
    return Ask("slow reader", *_chat(FLOOD, text, stream=True), read_chat_stream)


def load(model: str) -> Ask:
    return Ask("load", "/v1/load", {"model": model}, _read_load)


def probes() -> list[Ask]:
    """One for each model that has to answer when a fault is over."""
    text = "What is 145 + 278?"
    return [Ask("probe", *_chat(model, text), read_chat) for model in (DEMO, LAYERS, NPU, BOARD)]


def _asks(text: str) -> list[Ask]:
    messages = [{"role": "user", "content": text}]
    ollama = {"model": DEMO, "messages": messages, "options": {"temperature": 0}}
    response = {"model": DEMO, "input": text, "temperature": 0}
    anthropic = {"model": DEMO, "messages": messages, "temperature": 0, "max_tokens": 200}
    tool = {"name": "add", "parameters": {"type": "object", "properties": {"sum": {"type": "integer"}}}}
    called: dict[str, Any] = {
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": "required",
        "max_tokens": 60,
    }
    return [
        Ask("chat", *_chat(DEMO, text), read_chat),
        Ask("chat, streamed", *_chat(DEMO, text, stream=True), read_chat_stream),
        Ask("tools", *_chat(DEMO, text, **called), read_chat),
        Ask("auto, streamed", *_chat("auto", text, stream=True), read_chat_stream),
        Ask("embeddings", "/v1/embeddings", {"model": DEMO, "input": text}, _read_embeddings),
        Ask("Ollama, streamed", "/api/chat", ollama, _read_ollama_stream),
        Ask("Ollama", "/api/chat", {**ollama, "stream": False}, _read_ollama),
        Ask("Responses", "/v1/responses", response, _read_response),
        Ask("Responses, streamed", "/v1/responses", {**response, "stream": True}, _read_response_stream),
        Ask("Anthropic, streamed", "/v1/messages", {**anthropic, "stream": True}, _read_anthropic_stream),
        Ask("layers, streamed", *_chat(LAYERS, text, stream=True), read_chat_stream),
        Ask("NPU", *_chat(NPU, text), read_chat),
        Ask("NPU, streamed", *_chat(NPU, text, stream=True), read_chat_stream),
    ]


def _chat(model: str, text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}
    return "/v1/chat/completions", body


# What came, to what it says


def failure(status: int, body: bytes) -> Exception:
    """What an answer without the status 200 says."""
    try:
        said = json.loads(body)
    except ValueError:
        return Wrong(f"{status} with {body[:200]!r}")
    return _failed(status, said) or Wrong(f"{status} with {body[:200]!r}")


def read_chat(body: bytes) -> str:
    answer = _whole(body)
    choice = answer["choices"][0]
    return _chat_text(choice["message"]) + f" [{choice['finish_reason']}]"


def read_chat_stream(body: bytes) -> str:
    events = _events(body)
    for event in events[:-1]:
        _raise_failure(json.loads(event))
    if not events or events[-1] != "[DONE]":
        if events:
            _raise_failure(json.loads(events[-1]))
        raise Wrong(f"a stream ended as if it were whole, after {events[-1:]}")
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    if len(reasons) != 1:
        raise Wrong(f"a stream with the ends {reasons}")
    thoughts = "".join(choice["delta"].get("reasoning_content") or "" for choice in choices)
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    return f"{thoughts}|{content}| [{reasons[0]}]"


def _chat_text(message: Mapping[str, Any]) -> str:
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()
    ]
    return f"{message.get('reasoning_content') or ''}|{message.get('content') or ''}|{calls or ''}"


def _read_embeddings(body: bytes) -> list[float]:
    return [float(each) for each in _whole(body)["data"][0]["embedding"]]


def _read_ollama(body: bytes) -> str:
    answer = _whole(body)
    if not answer["done"]:
        raise Wrong(f"an answer that is not done: {body[:200]!r}")
    return f"{answer['message'].get('thinking') or ''}|{answer['message']['content']}"


def _read_ollama_stream(body: bytes) -> str:
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    for line in lines:
        _raise_failure(line)
    if not lines or not lines[-1].get("done"):
        raise Wrong(f"a stream ended as if it were whole, after {lines[-1:]}")
    return "".join(line["message"].get("content", "") for line in lines)


def _read_response(body: bytes) -> str:
    answer = _whole(body)
    if answer["status"] != "completed":
        raise Wrong(f"a response that is {answer['status']}")
    return _output(answer)


def _read_response_stream(body: bytes) -> str:
    last: dict[str, Any] = {}
    for event in _events(body):
        last = json.loads(event)
        if last["type"] in ("error", "response.failed"):
            said = last.get("response", {}).get("error") or last.get("error") or last
            raise Failed(200, str(said.get("code")), str(said.get("message")))
    if last.get("type") != "response.completed":
        raise Wrong(f"a stream ended as if it were whole, after {last}")
    return _output(last["response"])


def _output(response: Mapping[str, Any]) -> str:
    return "|".join(part["text"] for item in response["output"] for part in item.get("content") or ())


def _read_anthropic_stream(body: bytes) -> str:
    said, last = "", ""
    for event in map(json.loads, _events(body)):
        last = event["type"]
        if last == "error":
            raise Failed(200, str(event["error"].get("type")), str(event["error"].get("message")))
        if last == "content_block_delta":
            delta = event["delta"]
            said += delta.get("text") or delta.get("thinking") or ""
    if last != "message_stop":
        raise Wrong(f"a stream ended as if it were whole, after {last}")
    return said


def _read_load(body: bytes) -> str:
    return str(_whole(body)["model"])


def _whole(body: bytes) -> Any:
    answer = json.loads(body)
    _raise_failure(answer)
    return answer


def _events(body: bytes) -> list[str]:
    """The data of server-sent events. What comes behind the last empty line is no event."""
    blocks = body.decode().split("\n\n")
    if blocks.pop():
        raise Wrong("a stream ended within an event, as if it were whole")
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _raise_failure(said: Any) -> None:
    """A failure may come with the status 200, within a stream or after a long silence."""
    if found := _failed(200, said):
        raise found


def _failed(status: int, said: Any) -> Failed | None:
    error = said.get("error") if isinstance(said, dict) else None
    if not error:
        return None
    if isinstance(error, str):  # Ollama's
        return Failed(status, "", error)
    return Failed(status, str(error.get("code") or error.get("type")), str(error.get("message")))
