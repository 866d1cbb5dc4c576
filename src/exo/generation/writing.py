"""One answer, written in as many runs of an engine as it takes.

Theory of operation. An engine is asked for one thing: how a text goes on, free or held to a grammar. Most
answers are one run. An answer whose form is fixed behind a free beginning takes more: the run is left where
the form begins (`Channels.pause_at_answer`, `pause_at_call`), and the next one goes on from the prompt and
the text so far, most of which is in the engine's cache. These are

- a thought before an answer of a fixed form, or before a call that has to be made;
- a thought that has used up its budget, which is closed here;
- a call that the model has begun to write by itself, whose arguments are then held to the tool's schema.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

import msgspec

from exo.chat import ChatRequest, Delta, Finished, FinishReason, SoFar, Timings, TokenLogprob, Usage
from exo.errors import BadRequest
from exo.generation import constraints
from exo.generation.templates import ChatTemplate, Rendered
from exo.text.calls import Style
from exo.text.channels import Channels
from exo.text.thoughts import THINK


class Run(msgspec.Struct, frozen=True):
    """How `prompt` goes on is wanted, for `limit` tokens at most, held to `form` (Lark, or GBNF). `tags` are
    to be part of the text though they be special tokens. `open_end` says that it may be left before its
    end."""

    prompt: str
    form: str | None = None
    limit: int | None = None
    tags: tuple[str, ...] = ()
    open_end: bool = False


class Piece(msgspec.Struct, frozen=True):
    """The text of the next tokens; bytes that may break off within a character, or characters."""

    text: bytes | str
    tokens: int = 1
    logprobs: Sequence[TokenLogprob] = ()


class Ended(msgspec.Struct, frozen=True):
    """The end of a run; `cut` by the limit, or by the end of the context."""

    cut: bool
    usage: Usage
    timings: Timings = Timings()


Generate: TypeAlias = Callable[[ChatRequest, Run, Callable[[], bool]], AsyncGenerator[Piece | Ended, None]]
"""A run of an engine: pieces, and `Ended` last and once. After each piece it asks whether that was enough,
and ends early if so. Raises and is closed as `Responder.respond`."""


async def answer(
    request: ChatRequest, template: ChatTemplate | None, generate: Generate, *, holds_calls: bool = True
) -> AsyncGenerator[Delta, None]:
    """The deltas of one answer; `template` may be None for a request with a `prompt`.

    An engine for which holding a model to a form is dear does not do so for calls that the model makes by
    itself (`holds_calls`): those are text then if they are none.
    """
    writing = _Writing(request, template, holds_calls=holds_calls)
    channels = writing.channels
    while True:
        run = writing.next_run()
        async with aclosing(generate(request, run, writing.enough)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Piece):
                    for delta in channels.feed(piece.text, tokens=piece.tokens, logprobs=piece.logprobs):
                        yield delta
                else:
                    writing.ended(piece)
        for delta in writing.between_runs():
            yield delta
        if writing.over:
            yield writing.finished()
            return


class _Writing:
    """How far an answer is."""

    def __init__(self, request: ChatRequest, template: ChatTemplate | None, *, holds_calls: bool) -> None:
        rendered = _rendered(request, template)
        style = template.style if template and request.tools else None
        self._must_call = bool(request.must_call)
        self.over = False
        self._request, self._style, self._prompt = request, style, rendered.prompt
        self._tags = template.tags if template else THINK
        self._form: str | None = None
        self._cut = False
        self._usages: list[Usage] = []
        self._timings: list[Timings] = []
        self._whole = self._whole_form()
        holds = style is not None and (self._must_call or (style.anywhere and holds_calls))
        if style and self._whole is not None:
            # Within JSON nothing opens a call.
            style = msgspec.structs.replace(style, anywhere=False)
        self.channels = Channels(
            stop=request.stop,
            style=style,
            held=holds,
            thinking=rendered.opened,
            tags=self._tags,
            raw=request.prompt is not None,
            several=request.parallel_calls,
        )
        if request.so_far:
            self._take_up(request.so_far, rendered.opened)
        self.channels.pause_at_call = holds and self._whole is None
        if self._is_held:
            if rendered.may_think:
                self.channels.pause_at_answer = True
            else:
                self._begin_answer()

    def next_run(self) -> Run:
        tags = (*self._tags, *(self._style.tags if self._style else ()))
        pauses = self.channels.pause_at_answer or self.channels.pause_at_call
        open_end = pauses or bool(self._request.stop) or self._request.thinking_budget is not None
        return Run(self._prompt + self.channels.read, self._form, self._left, tags, open_end)

    def enough(self) -> bool:
        return self.channels.stopped or self.channels.paused or self._thought_enough()

    def ended(self, end: Ended) -> None:
        self._usages.append(end.usage)
        self._timings.append(end.timings)
        self._cut = end.cut or self._left == 0

    def between_runs(self) -> list[Delta]:
        """Prepares the next run, or ends the answer. Returns what is certain now."""
        channels, out = self.channels, list[Delta]()
        if not self._cut and not channels.stopped and self._closes_thought():
            # By itself a closing tag says nothing, so there are no deltas but of what was held back.
            out += channels.feed(f"\n{self._tags.end}\n\n", tokens=0)
            if not channels.paused:
                return out
        if channels.paused and not self._cut:
            channels.paused = False
            if self._is_held and self._form is None:
                return out + self._begin_answer()
            if self._style:
                return out + self._begin_call(self._style)
        self.over = True
        return out + channels.finish()

    def finished(self) -> Finished:
        reason: FinishReason = "length" if self._cut and not self.channels.stopped else "stop"
        if self.channels.called and reason == "stop":
            reason = "tool_calls"
        completion = self._written
        usage = msgspec.structs.replace(
            self._usages[0],
            completion_tokens=completion,
            reasoning_tokens=min(self.channels.reasoning_tokens, completion),
        )
        first, *others = self._timings
        decode = first.decode + sum(each.prefill + each.decode for each in others)
        return Finished(reason, usage, Timings(first.prefill, decode), self.channels.stop)

    @property
    def _written(self) -> int:
        return sum(usage.completion_tokens for usage in self._usages)

    @property
    def _left(self) -> int | None:
        """How many tokens more it may have."""
        most = self._request.sampling.max_tokens
        return None if most is None else max(0, most - self._written)

    @property
    def _is_held(self) -> bool:
        """Whether the answer is held to a form from its beginning on, thoughts apart."""
        return self._whole is not None or self._must_call

    def _whole_form(self) -> str | None:
        """The grammar of the whole answer, where there is one."""
        request = self._request
        form = constraints.grammar(request, self._style)
        if not self._must_call:
            return form
        if form is not None:
            param = "response_format" if request.grammar is None else "grammar"
            raise BadRequest(f"{param} and a call that has to be made exclude each other", param=param)
        if request.so_far and request.so_far.text:
            raise BadRequest("an answer that has to be a call cannot be gone on with", param="messages")
        if not self._style:
            raise BadRequest("there are no tools to call", param="tool_choice")
        return None

    def _begin_answer(self) -> list[Delta]:
        """From here on the answer keeps to its form."""
        if self.channels.read:
            self.channels.feed("\n\n", tokens=0)  # as models write behind a thought
        if self._style and self._must_call:
            return self.channels.feed(self._style.openings[0], tokens=0) + self._begin_call(self._style)
        self._form, self.channels.pause_at_call = self._whole, False
        return []

    def _begin_call(self, style: Style) -> list[Delta]:
        """Behind what opens a call."""
        self.channels.paused = self.channels.pause_at_call = False
        self._form = constraints.calls(self._request, style, self._request.must_call)
        return self.channels.feed(style.before_name, tokens=0)

    def _thought_enough(self) -> bool:
        budget, channels = self._request.thinking_budget, self.channels
        return budget is not None and channels.reasons and channels.reasoning_tokens >= budget

    def _closes_thought(self) -> bool:
        """Whether the model has to be made to answer: it has thought enough, or ended within a thought
        though an answer of a certain form is wanted."""
        wants = self._is_held and self._form is None
        return self._thought_enough() or (wants and self.channels.before_answer)

    def _take_up(self, said: SoFar, opened: bool) -> None:
        """An answer that was broken off is gone on with, from the text as the model wrote it.

        Tags and the white space around them are not part of what was said, so they are put where models of
        the families we know write them.
        """
        tags, written = self._tags, said.text
        if said.reasoning or opened:
            written = said.reasoning if opened else f"{tags.begin}\n{said.reasoning}"
            if said.text:
                written += f"\n{tags.end}\n\n{said.text}"
        self.channels.skip(written)


def _rendered(request: ChatRequest, template: ChatTemplate | None) -> Rendered:
    if request.prompt is not None:
        return Rendered(request.prompt)
    if template is None:
        raise BadRequest(
            f"model '{request.model}' has no chat template; use /v1/completions", param="messages"
        )
    return template.render(request)
