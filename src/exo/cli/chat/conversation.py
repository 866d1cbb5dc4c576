"""What was said in a chat, what of it a model is sent, and how it is kept in a file. Pure."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from exo.chat import Message
from exo.cli.chat.settings import Settings
from exo.errors import BadRequest


class Turn(msgspec.Struct, frozen=True):
    """A question and what came of it. `broken` says why the answer is not whole: "stopped", or what it failed
    with."""

    question: str
    answer: str = ""
    reasoning: str = ""
    broken: str = ""


class Conversation(msgspec.Struct, frozen=True):
    system: str = ""
    turns: tuple[Turn, ...] = ()

    def told(self) -> "Conversation":
        """Without a last question that nothing was answered to: the next one takes its place, as two in a
        row are refused by some chat templates."""
        return self.undone() if self.turns and not self.turns[-1].answer else self

    def undone(self) -> "Conversation":
        """Without the last question. Raises `BadRequest` where there is none."""
        if not self.turns:
            raise BadRequest("nothing has been asked yet")
        return msgspec.structs.replace(self, turns=self.turns[:-1])

    def with_turn(self, turn: Turn) -> "Conversation":
        return msgspec.structs.replace(self, turns=(*self.turns, turn))

    def messages(self, question: str) -> tuple[Message, ...]:
        """What a model is sent to have `question` answered next. A part of an answer is sent as it came;
        thoughts are not sent."""
        messages = [Message("system", self.system)] if self.system else []
        for turn in self.told().turns:
            messages += [Message("user", turn.question), Message("assistant", turn.answer)]
        return (*messages, Message("user", question))


class _Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str
    reasoning: str = ""
    broken: str = ""


class _File(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    messages: tuple[_Message, ...]
    model: Annotated[str, Meta(max_length=256)] = ""
    settings: Settings = Settings()


class Saved(msgspec.Struct, frozen=True):
    """What a file of a conversation holds. `model` is "" where it names none."""

    conversation: Conversation
    model: str = ""
    settings: Settings = Settings()


def to_json(saved: Saved) -> bytes:
    """For `from_json`: messages as OpenAI's API has them, and the model and its settings."""
    conversation = saved.conversation
    messages = [_Message("system", conversation.system)] if conversation.system else []
    for turn in conversation.turns:
        messages.append(_Message("user", turn.question))
        if turn.answer:
            messages.append(_Message("assistant", turn.answer, turn.reasoning, turn.broken))
    encoded = msgspec.json.encode(_File(tuple(messages), saved.model, saved.settings))
    return msgspec.json.format(encoded, indent=2) + b"\n"


def from_json(text: bytes) -> Saved:
    """Raises `BadRequest` naming what is wrong in it."""
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"this is no saved conversation: {error}") from error
    system, turns = "", list[Turn]()
    for place, message in enumerate(file.messages):
        match message.role:
            case "system" if place == 0:
                system = message.content
            case "user" if not turns or turns[-1].answer:
                turns.append(Turn(message.content))
            case "assistant" if turns and not turns[-1].answer and message.content:
                turns[-1] = Turn(turns[-1].question, message.content, message.reasoning, message.broken)
            case role:
                raise BadRequest(
                    f"messages[{place}] ({role}) is out of turn: behind a system message, if any, questions "
                    "(user) and answers (assistant) that are not empty take turns"
                )
    return Saved(Conversation(system, tuple(turns)), file.model, file.settings)


def to_markdown(saved: Saved) -> bytes:
    """For people: a heading a message. Thoughts are folded away, an answer that is not whole says so."""
    conversation = saved.conversation
    parts = [f"## System\n\n{conversation.system}"] if conversation.system else []
    for turn in conversation.turns:
        parts.append(f"## You\n\n{turn.question}")
        if turn.reasoning:
            parts.append(f"<details>\n<summary>Thoughts</summary>\n\n{turn.reasoning}\n\n</details>")
        if turn.answer:
            parts.append(f"## {saved.model}\n\n{turn.answer}")
        if turn.broken:
            parts.append(f"*({turn.broken})*")
    return ("\n\n".join(parts) + "\n").encode(errors="backslashreplace")
