"""Raw model text in, deltas out: reasoning, answer and tool calls told apart while the text still arrives.

A model writes one stream of characters in which tags change the meaning of what follows. A piece may end
anywhere, in the middle of a tag or of a character, and the outcome must not depend on where. So a character
goes through four stages in order, and each keeps back only what it cannot judge yet:

1. UTF-8: the bytes of an incomplete character. Invalid bytes become U+FFFD.
2. Special tokens, in every channel: a suffix that may still become one of `ends` or `hidden`. A hidden one
   leaves no gap: what stood before and behind it is neighbours to the stages below.
3. Channels, a machine of four states:

       START --<think>--> REASONING --</think>--> ANSWER <--<tool_call>, </tool_call>--> CALL
         `-----anything else but whitespace--------^

   (With `thinking`, that goes to REASONING too.) Kept back are a suffix that may still become the tag this
   state waits for; whitespace that a tag would swallow (at the start, in reasoning, and in the answer if
   there are tools); and a whole tool call, which is text again if it turns out to be none. The first
   closing tag closes.
4. Stop strings, in the answer only: a suffix that may still become one. A tool call parts the answer, so no
   stop string reaches across it.

Wherever several strings are looked for, the one *completed* first wins, and of those completed by the same
character the one that started first. That is what reading character by character gives, so it is the same
for every chunking, and a hit never waits to see whether a longer one follows.

Characters leave in the order they came, emitted or dropped. `_owners` holds, for each one in flight, the
logprobs of the piece that brought it; the first character of a piece to be emitted takes them along.
"""

import codecs
import json
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import Enum, auto

from exo.chat import Delta, Reasoning, Text, TokenLogprob, ToolCall


class _Finder:
    """Looks for any of some strings in text that has only partly arrived."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = sorted({string for string in strings if string})
        self._shortest = min(map(len, self._strings), default=0)
        self._longest = max(map(len, self._strings), default=0)
        self.firsts = frozenset(string[0] for string in self._strings)

    def cut(self, text: str) -> tuple[str, str, str]:
        """Like `str.partition`, but with nothing found the last part is what may yet become a string."""
        if self.firsts.isdisjoint(text):
            return text, "", ""
        if len(text) >= self._shortest:
            hits = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
            if hits:
                end, at = min(hits)
                return text[:at], text[at:end], text[end:]
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self.firsts and self._begins(text[at:]):
                return text[:at], "", text[at:]
        return text, "", ""

    def _begins(self, text: str) -> bool:
        nearest = bisect_left(self._strings, text)
        return nearest < len(self._strings) and self._strings[nearest].startswith(text)


_THINK, _CALL, _END_CALL = "<think>", "<tool_call>", "</tool_call>"
_THINK_ENDS, _CALL_BEGINS, _CALL_ENDS = _Finder(["</think>"]), _Finder([_CALL]), _Finder([_END_CALL])


class _In(Enum):
    START = auto()
    REASONING = auto()
    ANSWER = auto()
    CALL = auto()


class Channels:
    """The deltas of one answer.

    `thinking` says that the prompt has already opened the reasoning. `ends` and `hidden` are special tokens
    as the engine spells them (never the tags above); an engine that does not spell them out passes none,
    so that a user may ask about "</s>". With `tools`, tool calls are recognised; else their tags are text.
    `raw` says that the text continues one that is no chat, so that no thought opens it.
    """

    def __init__(
        self,
        *,
        stop: Sequence[str] = (),
        tools: bool = False,
        thinking: bool = False,
        ends: Sequence[str] = (),
        hidden: Sequence[str] = (),
        raw: bool = False,
    ) -> None:
        self.stopped = False
        """A stop string or an end token came: nothing more comes out, the engine should stop."""
        self.reasoning_tokens = 0
        """Tokens fed while in the reasoning; the closing tag's is one of them, the opening tag's not."""
        self.called = False
        """At least one tool call came out."""
        self._tools, self._thinking, self._ends = tools, thinking, frozenset(ends)
        self._specials, self._stops = _Finder([*ends, *hidden]), _Finder(stop)
        self._watched = self._specials.firsts | self._stops.firsts | (_CALL_BEGINS.firsts if tools else set())
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._channel = _In.ANSWER if raw else _In.START
        self._skips = False  # whitespace is dropped until something else comes
        self._calls = 0
        self._out: list[Delta] = []
        self._owners: list[list[TokenLogprob]] = []
        self._owner: list[TokenLogprob] = []  # of pieces that have not completed a character yet
        # Held back, the oldest first:
        self._stop = ""
        self._spaces: list[str] = []
        self._body: list[str] = []  # of a tool call; its opening tag stands between the spaces and it
        self._tag = ""
        self._special = ""

    def feed(
        self, piece: str | bytes, *, tokens: int = 1, logprobs: Sequence[TokenLogprob] = ()
    ) -> list[Delta]:
        """What is certain now that `piece`, the text of the next `tokens` tokens, has come.

        One answer's pieces are all bytes or all str; a str piece ends a character that bytes left open.
        """
        if self.stopped:
            return []
        if self._channel is _In.REASONING or (self._channel is _In.START and self._thinking):
            self.reasoning_tokens += tokens
        if isinstance(piece, bytes):
            text = self._decoder.decode(piece)
        else:
            text = self._decoder.decode(b"", final=True) + piece
        if self._is_plain(text):
            return [Text(text, tuple(logprobs))]
        self._owner.extend(logprobs)
        self._read(text)
        return self._take_out()

    def finish(self) -> list[Delta]:
        """No more text comes: everything held back, as what it is by now."""
        if not self.stopped:
            self._read(self._decoder.decode(b"", final=True))
            self._flush()
        return self._take_out()

    def _take_out(self) -> list[Delta]:
        out, self._out = self._out, []
        return out

    def _is_plain(self, text: str) -> bool:
        """Whether `text` is answer that no stage has a say in: the short way, which most tokens take."""
        return (
            self._channel is _In.ANSWER
            and not (self._owners or self._owner or self._skips or not text)
            and self._watched.isdisjoint(text)
            and not (self._tools and text[-1].isspace())
        )

    # Stage 2: special tokens

    def _read(self, text: str) -> None:
        if not text:
            return
        self._owners += [self._owner] * len(text)
        self._owner = []
        text = self._special + text
        while True:
            in_flight = len(self._owners) - len(text)
            before, special, text = self._specials.cut(text)
            at = in_flight + len(before)
            del self._owners[at : at + len(special)]
            self._route(before)
            if not special:
                self._special = text
                return
            if special in self._ends:
                self._special = ""
                self._flush()
                self.stopped = True
                return

    def _flush(self) -> None:
        """The text ends here: what every stage holds back goes on as if nothing could follow."""
        self._route(self._special)
        if self.stopped:
            return
        rest, self._special, self._tag = self._tag, "", ""
        if self._channel is _In.START:
            self._leave_start()
        if self._channel is _In.REASONING:
            self._think(self._take_spaces() + rest)
        elif self._channel is _In.CALL:
            self._body.append(rest)
            self._close_call("")
        else:
            self._say(self._take_spaces() + rest)
        self._release_stop()

    # Stage 3: channels

    def _route(self, text: str) -> None:
        text, self._tag = self._tag + text, ""
        while text and not self.stopped:
            if self._skips:
                kept = text.lstrip()
                self._drop(len(text) - len(kept))
                text, self._skips = kept, not kept
            elif self._channel is _In.START:
                text = self._start(text)
            elif self._channel is _In.REASONING:
                text = self._reason(text)
            elif self._channel is _In.ANSWER:
                text = self._answer(text)
            else:
                text = self._call(text)

    # Each state takes text and returns the rest that is the next state's.

    def _start(self, text: str) -> str:
        body = text.lstrip()
        self._spaces.append(text[: len(text) - len(body)])
        if body.startswith(_THINK):
            self._drop(len(self._take_spaces() + _THINK))
            self._channel, self._skips = _In.REASONING, True
            return body[len(_THINK) :]
        if _THINK.startswith(body):
            self._tag = body
            return ""
        self._leave_start()
        return body

    def _leave_start(self) -> None:
        """There is no opening tag."""
        self._channel = _In.ANSWER
        if self._thinking:
            self._channel = _In.REASONING
            self._drop(len(self._take_spaces()))

    def _reason(self, text: str) -> str:
        before, tag, rest = self._seek(_THINK_ENDS, text)
        self._think(self._but_last_spaces(before))
        if tag:
            self._drop(len(self._take_spaces() + tag))
            self._channel, self._skips = _In.ANSWER, True
        return rest

    def _answer(self, text: str) -> str:
        if not self._tools:
            self._say(self._take_spaces() + text)
            return ""
        before, tag, rest = self._seek(_CALL_BEGINS, text)
        self._say(self._but_last_spaces(before))
        if tag:
            self._channel = _In.CALL
        return rest

    def _call(self, text: str) -> str:
        before, tag, rest = self._seek(_CALL_ENDS, text)
        self._body.append(before)
        if tag:
            self._close_call(tag)
        return rest

    def _seek(self, tags: _Finder, text: str) -> tuple[str, str, str]:
        before, tag, rest = tags.cut(text)
        if not tag:
            self._tag, rest = rest, ""
        return before, tag, rest

    def _close_call(self, tag: str) -> None:
        body, self._body = "".join(self._body), []
        written = self._take_spaces() + _CALL + body + tag
        self._channel = _In.ANSWER
        call = _parse_call(body)
        if call is None:
            self._say(written)
            return
        self._release_stop()
        self._drop(len(written))
        name, arguments = call
        self._out.append(ToolCall(self._calls, "call_" + secrets.token_hex(12), name, arguments))
        self._calls += 1
        self.called = self._skips = True

    def _take_spaces(self) -> str:
        spaces, self._spaces = "".join(self._spaces), []
        return spaces

    def _but_last_spaces(self, text: str) -> str:
        """Held whitespace and `text`, up to the whitespace at its end, which is held now."""
        body = text.rstrip()
        certain = self._take_spaces() + body if body else ""
        self._spaces.append(text[len(body) :])
        return certain

    # Stage 4: stop strings, and the way out

    def _say(self, text: str) -> None:
        before, stop, rest = self._stops.cut(self._stop + text)
        self._emit(before)
        self.stopped, self._stop = bool(stop), "" if stop else rest

    def _release_stop(self) -> None:
        self._emit(self._stop)
        self._stop = ""

    def _emit(self, text: str) -> None:
        if not text:
            return
        logprobs: list[TokenLogprob] = []
        for owner in self._owners[: len(text)]:
            logprobs += owner
            owner.clear()
        self._drop(len(text))
        self._out.append(Text(text, tuple(logprobs)))

    def _think(self, text: str) -> None:
        if text:
            self._drop(len(text))
            self._out.append(Reasoning(text))

    def _drop(self, characters: int) -> None:
        del self._owners[:characters]


def _parse_call(body: str) -> tuple[str, str] | None:
    """Name and arguments of a Hermes-style call; None if `body` is none, or cannot be passed on as JSON."""
    try:
        call = json.loads(body)
        name = call["name"]
        arguments = call["arguments"] if "arguments" in call else call["parameters"]
        if not (name and isinstance(name, str) and isinstance(arguments, dict)):
            return None
        compact = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        (name + compact).encode()  # half of a surrogate pair would break the wire
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return name, compact
