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

   (With `thinking`, that goes to REASONING too.) The tags are those of the model's family. Kept back are a
   suffix that may still become the tag this state waits for; whitespace that a tag would swallow (at the
   start, in reasoning, and in the answer if there are tools); and a whole tool call, which is text again if
   it turns out to be none; one that the model is held to comes out as it arrives. The first closing tag
   closes.
4. Stop strings, in the answer only: a suffix that may still become one. A tool call parts the answer, so no
   stop string reaches across it.

Where an answer or a call begins, the reader can be made to pause: what came behind is not read, and whoever
feeds it has the model go on from there in another way (see `generation.writing`).

Characters leave in the order they came, emitted or dropped. `_owners` holds, for each one in flight, the
logprobs of the piece that brought it; the first character of a piece to be emitted takes them along.
"""

import codecs
import secrets
from collections.abc import Sequence
from enum import Enum, auto

import msgspec

from exo.chat import Delta, Reasoning, Text, TokenLogprob, ToolCall
from exo.text import calls
from exo.text.finder import Finder
from exo.text.thoughts import THINK, Tags


class _In(Enum):
    START = auto()
    REASONING = auto()
    ANSWER = auto()
    CALL = auto()


class Channels:
    """The deltas of one answer.

    `thinking` says that the prompt has already opened the reasoning, whose tags are `tags`. `ends` and
    `hidden` are special tokens as the engine spells them (never the tags above); an engine that does not
    spell them out passes none, so that a user may ask about "</s>". Calls are recognised where they are
    written in `style`, as far as they come from a model that is held to it where `held`; without a style
    their tags are text. Unless there may be `several`, the answer is over behind one. `raw` says that the
    text continues one that is no chat, so that no thought opens it.
    """

    def __init__(
        self,
        *,
        stop: Sequence[str] = (),
        style: calls.Style | None = None,
        held: bool = False,
        thinking: bool = False,
        tags: Tags = THINK,
        ends: Sequence[str] = (),
        hidden: Sequence[str] = (),
        raw: bool = False,
        several: bool = True,
    ) -> None:
        self.stopped = False
        """A stop string or an end token came: nothing more comes out, the engine should stop."""
        self.stop = ""
        """The stop string that came."""
        self.reasoning_tokens = 0
        """Tokens fed while in the reasoning; the closing tag's is one of them, the opening tag's not."""
        self.called = False
        """At least one tool call came out."""
        self.pause_at_answer = self.pause_at_call = False
        """Whether to pause where the answer begins, thought or not, and behind what opens a call."""
        self.paused = False
        """Nothing is read before this is set back."""
        self._thinking, self._tags, self._ends = thinking, tags, frozenset(ends)
        self._style, self._held, self._several = style, held, several
        self._specials, self._stops = Finder([*ends, *hidden]), Finder(stop)
        self._thought_ends = Finder([tags.end])
        self._call_begins = Finder(style.openings if style else ())
        self._call_ends = Finder([style.closing] if style else ())
        self._watched = self._specials.firsts | self._stops.firsts | self._call_begins.firsts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._channel = _In.ANSWER if raw else _In.START
        self._skips = False  # whitespace is dropped until something else comes
        self._fresh = True  # nothing has been said
        self._read_so_far: list[str] = []
        self._reader: calls.Reader | None = None
        self._calls = 0
        self._out: list[Delta] = []
        self._owners: list[list[TokenLogprob]] = []
        self._owner: list[TokenLogprob] = []  # of pieces that have not completed a character yet
        # Held back, the oldest first:
        self._begun_stop = ""
        self._spaces: list[str] = []
        self._opening = ""  # of a tool call; it stands between the spaces and the body
        self._body: list[str] = []
        self._tag = ""
        self._special = ""

    @property
    def before_answer(self) -> bool:
        """Whether all that came yet is thought, if anything."""
        return self._channel in (_In.START, _In.REASONING)

    @property
    def reasons(self) -> bool:
        """Whether a thought is open."""
        return self._channel is _In.REASONING or (self._channel is _In.START and self._thinking)

    @property
    def read(self) -> str:
        """All the text that was read, tags and all, up to where it paused."""
        return "".join(self._read_so_far)

    def feed(
        self, piece: str | bytes, *, tokens: int = 1, logprobs: Sequence[TokenLogprob] = ()
    ) -> list[Delta]:
        """What is certain now that `piece`, the text of the next `tokens` tokens, has come.

        One answer's pieces are all bytes or all str; a str piece ends a character that bytes left open.
        """
        if self.stopped or self.paused:
            return []
        if self.reasons:
            self.reasoning_tokens += tokens
        if isinstance(piece, bytes):
            text = self._decoder.decode(piece)
        else:
            text = self._decoder.decode(b"", final=True) + piece
        self._read_so_far.append(text)
        if self._is_plain(text):
            return [Text(text, tuple(logprobs))]
        self._owner.extend(logprobs)
        self._read(text)
        return self._take_out()

    def skip(self, text: str) -> None:
        """`text` has been said: it is read for where it leads, and nothing of it comes out any more. A call
        in it is text, and a stop string none."""
        style, self._style = self._style, None
        stops, self._stops = self._stops, Finder(())
        self.feed(text, tokens=0)
        self._style, self._stops = style, stops
        self._out.clear()
        self._owners.clear()
        self._spaces.clear()
        self._begun_stop = self._tag = self._special = ""

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
            and not (self._style and (self._fresh or text[-1].isspace()))
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
            unread = self._route(before)
            if self.paused:
                self._forget(unread + special + text)
                return
            if not special:
                self._special = text
                return
            if special in self._ends:
                self._special = ""
                self._flush()
                self.stopped = True
                return

    def _forget(self, unread: str) -> None:
        """What came behind the place of the pause has never been."""
        read = self.read
        self._read_so_far = [read[: len(read) - len(unread)]]
        self._special = self._tag = ""
        self._decoder.reset()
        self._owners.clear()
        self._owner = []

    def _flush(self) -> None:
        """The text ends here: what every stage holds back goes on as if nothing could follow."""
        self.pause_at_answer = self.pause_at_call = False
        self._route(self._special)
        if self.stopped:
            return
        rest, self._special, self._tag = self._tag, "", ""
        if self._channel is _In.START:
            self._leave_start()
        if self._channel is _In.REASONING:
            self._think(self._take_spaces() + rest)
        elif self._channel is _In.CALL and not self._reader:
            self._body.append(rest)
            self._close_call("")
        else:
            self._say(self._take_spaces() + rest)
        self._release_stop()

    # Stage 3: channels

    def _route(self, text: str) -> str:
        """Returns what is not read, as it stands behind the place of a pause."""
        text, self._tag = self._tag + text, ""
        while text and not self.stopped and not self.paused:
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
        return text

    # Each state takes text and returns the rest that is the next state's.

    def _start(self, text: str) -> str:
        body = text.lstrip()
        self._spaces.append(text[: len(text) - len(body)])
        begin = self._tags.begin
        if body.startswith(begin):
            self._drop(len(self._take_spaces() + begin))
            self._channel, self._skips = _In.REASONING, True
            return body[len(begin) :]
        if begin.startswith(body):
            self._tag = body
            return ""
        self._leave_start()
        if self.paused:
            return self._take_spaces() + body
        return body

    def _leave_start(self) -> None:
        """There is no opening tag."""
        if self._thinking:
            self._channel = _In.REASONING
            self._drop(len(self._take_spaces()))
        else:
            self._begin_answer()

    def _begin_answer(self) -> None:
        self._channel, self.paused, self.pause_at_answer = _In.ANSWER, self.pause_at_answer, False

    def _reason(self, text: str) -> str:
        before, tag, rest = self._seek(self._thought_ends, text)
        self._think(self._but_last_spaces(before))
        if tag:
            self._drop(len(self._take_spaces() + tag))
            self._skips = True
            self._begin_answer()
        return rest

    def _answer(self, text: str) -> str:
        style = self._style
        if not style or not (style.anywhere or self._fresh):
            self._say(self._take_spaces() + text)
            return ""
        before, tag, rest = self._seek(self._call_begins, text)
        if before.strip() and not style.anywhere:
            # It does not begin with a call, so there is none.
            self._fresh, self._tag = False, ""
            self._say(self._take_spaces() + text)
            return ""
        self._say(self._but_last_spaces(before))
        if tag:
            self._begin_call(tag)
        return rest

    def _begin_call(self, opening: str) -> None:
        self._channel, self._opening, self.paused = _In.CALL, opening, self.pause_at_call
        if self._held and self._style:
            self._release_stop()
            self._drop(len(self._take_spaces() + opening))
            self._reader = calls.Reader(self._style)

    def _call(self, text: str) -> str:
        if self._reader:
            self._drop(len(text))
            for delta in self._reader.feed(text):
                self._call_delta(delta)
            return ""
        before, tag, rest = self._seek(self._call_ends, text)
        self._body.append(before)
        if tag:
            self._close_call(tag)
        return rest

    def _call_delta(self, delta: ToolCall) -> None:
        """A piece of a call that the model is held to; the first of each gets an id."""
        id = _new_id() if delta.name else ""
        self._out.append(msgspec.structs.replace(delta, id=id))
        self.called = True

    def _seek(self, tags: Finder, text: str) -> tuple[str, str, str]:
        before, tag, rest = tags.cut(text)
        if not tag:
            self._tag, rest = rest, ""
        return before, tag, rest

    def _close_call(self, tag: str) -> None:
        body, self._body = "".join(self._body), []
        written = self._take_spaces() + self._opening + body + tag
        self._channel = _In.ANSWER
        found = calls.parse(self._style, self._opening, body) if self._style else None
        if found is None:
            self._say(written)
            return
        self._release_stop()
        self._drop(len(written))
        for name, arguments in found if self._several else found[:1]:
            self._out.append(ToolCall(self._calls, _new_id(), name, arguments))
            self._calls += 1
        self.called = self._skips = True
        self.stopped = not self._several

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
        before, self.stop, rest = self._stops.cut(self._begun_stop + text)
        self._emit(before)
        self.stopped, self._begun_stop = bool(self.stop), "" if self.stop else rest

    def _release_stop(self) -> None:
        self._emit(self._begun_stop)
        self._begun_stop = ""

    def _emit(self, text: str) -> None:
        if not text:
            return
        self._fresh = self._fresh and text.isspace()
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


def _new_id() -> str:
    return "call_" + secrets.token_hex(12)
