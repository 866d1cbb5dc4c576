"""One line of an answer, or the whole of it: what both of Ollama's ways of asking for text are made of."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from exo.chat import Delta, Finished, Reasoning, Text, TokenLogprob, ToolCall
from exo.errors import UNFINISHED, EngineFailed
from exo.wire.ollama import answer_types as types
from exo.wire.openai import figures
from exo.wire.openai.answer_types import ChosenLogprob
from exo.wire.tools import arguments


class Said(msgspec.Struct, frozen=True):
    """What a line says."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[types.OllamaAnsweredCall] = ()
    logprobs: Sequence[TokenLogprob] = ()


class Calls:
    """Puts tool calls together from their deltas, which come one call after the other."""

    def __init__(self) -> None:
        self._pieces: list[ToolCall] = []

    def feed(self, delta: ToolCall) -> list[types.OllamaAnsweredCall]:
        """The call before this one, if it has come to its end by that."""
        ended = self.end() if self._pieces and self._pieces[0].index != delta.index else []
        self._pieces.append(delta)
        return ended

    def end(self, *, cut: bool = False) -> list[types.OllamaAnsweredCall]:
        """The call under way, if there is one, as nothing more of it can come. Raises `EngineFailed` where
        its arguments are no object; in an answer that was cut off, such a call is left out."""
        if not self._pieces:
            return []
        first, text = self._pieces[0], "".join(piece.arguments for piece in self._pieces)
        self._pieces = []
        try:
            function = types.OllamaFunctionMade(first.index, first.name, arguments(first.name, text))
        except EngineFailed:
            if cut:
                return []
            raise
        return [types.OllamaAnsweredCall(first.id, function)]


def joined(deltas: Sequence[Delta]) -> tuple[Said, Finished]:
    """A whole answer. Raises `EngineFailed` where it has no end."""
    text: list[str] = []
    thinking: list[str] = []
    logprobs: list[TokenLogprob] = []
    made: list[types.OllamaAnsweredCall] = []
    calls = Calls()
    for delta in deltas:
        match delta:
            case Text():
                text.append(delta.text)
                logprobs.extend(delta.logprobs)
            case Reasoning():
                thinking.append(delta.text)
            case ToolCall():
                made += calls.feed(delta)
            case Finished():
                made += calls.end(cut=delta.reason == "length")
                return Said("".join(text), "".join(thinking), made, logprobs), delta
    raise EngineFailed(UNFINISHED)


def measured(finished: Finished, seconds: float) -> types.Measured:
    """The end of an answer that took `seconds` from the request's arrival."""
    timings, usage = finished.timings, finished.usage
    total, prompt, answer = _ns(seconds), _ns(timings.prefill), _ns(timings.decode)
    return types.Measured(
        done=True,
        done_reason="length" if finished.reason == "length" else "stop",
        total_duration=total,
        load_duration=max(0, total - prompt - answer) if prompt or answer else 0,
        prompt_eval_count=usage.prompt_tokens,
        prompt_eval_duration=prompt,
        eval_count=usage.completion_tokens,
        eval_duration=answer,
    )


def chat_line(model: str, created_at: str, said: Said, end: types.Measured) -> types.OllamaChatAnswer:
    return types.OllamaChatAnswer(
        model=model,
        created_at=created_at,
        message=types.OllamaAnswerMessage(said.text, said.thinking or UNSET, list(said.calls) or UNSET),
        logprobs=_logprobs(said.logprobs),
        **msgspec.structs.asdict(end),
    )


def generate_line(model: str, created_at: str, said: Said, end: types.Measured) -> types.OllamaGenerateAnswer:
    if said.calls:
        raise EngineFailed("the model called a tool, and a prompt to /api/generate has none")
    return types.OllamaGenerateAnswer(
        model=model,
        created_at=created_at,
        response=said.text,
        thinking=said.thinking or UNSET,
        logprobs=_logprobs(said.logprobs),
        **msgspec.structs.asdict(end),
    )


def _logprobs(logprobs: Sequence[TokenLogprob]) -> list[ChosenLogprob] | UnsetType:
    return figures.chat_logprobs(logprobs).content if logprobs else UNSET


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
