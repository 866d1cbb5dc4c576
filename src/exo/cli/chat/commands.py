"""What a line typed in a chat means: a command, or a message. Pure."""

from collections.abc import Sequence

import msgspec

from exo.cli.chat import settings
from exo.cli.chat.nearest import nearest
from exo.errors import BadRequest

QUOTES = '"""'


class Command(msgspec.Struct, frozen=True):
    """One of `COMMANDS`, by the name it has there, and what was typed behind it."""

    name: str
    argument: str = ""


class _Kind(msgspec.Struct, frozen=True):
    """`argument` is how the manual writes it: "" takes none, one in brackets may be left out."""

    argument: str
    meaning: str
    aliases: tuple[str, ...] = ()


COMMANDS = {
    "/help": _Kind("", "show this", ("/?",)),
    "/model": _Kind("[NAME]", "show the models, or go on with another one"),
    "/models": _Kind("", "show the models"),
    "/system": _Kind("[TEXT]", "show the system message, or set it; - clears it"),
    "/set": _Kind("[NAME [VALUE]]", "show the settings, or change one; - leaves it to the node"),
    "/think": _Kind("", "have a reasoning model think: /set think on"),
    "/nothink": _Kind("", "have it answer at once: /set think off"),
    "/clear": _Kind("", "begin a new conversation"),
    "/retry": _Kind("", "ask the last question again, in place of its answer"),
    "/undo": _Kind("", "take the last question and its answer back"),
    "/save": _Kind("FILE", "write the conversation as JSON, or for people to FILE.md"),
    "/load": _Kind("FILE", "go on with a conversation that was saved as JSON"),
    "/stats": _Kind("", "switch the line of figures below answers on or off"),
    "/stop": _Kind("[NAME]", "take the model out of the node's memory"),
    "/bye": _Kind("", "end the chat", ("/exit", "/quit")),
}

_BY_NAME = {each: name for name, kind in COMMANDS.items() for each in (name, *kind.aliases)}

_KEYS = (
    ("Enter", "sends the message; a line that ends in \\ goes on below"),
    (QUOTES, f"begins a message of many lines, up to the next {QUOTES}"),
    ("//", "begins a message that begins with /"),
    ("Tab", "completes commands, and names of models and files"),
    ("Up, Ctrl-R", "earlier messages, and a search in them"),
    ("Ctrl-C", "stops an answer, or clears the line; twice ends the chat"),
    ("Ctrl-D", "ends the chat"),
)


def read(typed: str) -> Command | str:
    """The command or the message. Raises `BadRequest` for a command that there is not, naming the nearest,
    and for one without the argument it needs, or with one it does not take."""
    text = typed.strip()
    if text.startswith("//"):
        return text[1:]
    if not text.startswith("/"):
        # What is pasted may begin with an indented line.
        return _unquoted(typed.strip("\n").rstrip())
    word, *rest = text.split(None, 1)
    argument = "".join(rest)
    name = _BY_NAME.get(word)
    if name is None:
        near = nearest(word, tuple(_BY_NAME)) if len(word) > 1 else "/help shows what there is"
        raise BadRequest(f"there is no command {word}; {near} (to send it, begin with //)")
    kind = COMMANDS[name]
    if argument and not kind.argument:
        raise BadRequest(f"{word} takes nothing behind it (to send it, begin with //)")
    if not argument and kind.argument and not kind.argument.startswith("["):
        raise BadRequest(f"write {word} {kind.argument}")
    return Command(name, _unquoted(argument))


def is_open(typed: str) -> bool:
    """Whether quotes were opened that have to be closed before it can be sent."""
    text = typed.strip().removeprefix("/system").lstrip()
    return text.startswith(QUOTES) and not (text.endswith(QUOTES) and len(text) >= 2 * len(QUOTES))


def completions(typed: str, models: Sequence[str]) -> list[tuple[str, str]]:
    """What the last word of a command may become, and what of that is there: words and that word. Files are
    for somebody else to complete."""
    word, space, argument = typed.partition(" ")
    if not space:
        return [(each, word) for each in sorted(_BY_NAME) if word.startswith("/") and each.startswith(word)]
    match word:
        case "/model" | "/stop":
            known: Sequence[str] = sorted(models)
        case "/set":
            known = settings.NAMES
        case _:
            return []
    return [(each, argument) for each in known if each.startswith(argument)]


def manual() -> str:
    """What `/help` shows."""
    rows = [(f"{', '.join((name, *k.aliases))} {k.argument}", k.meaning) for name, k in COMMANDS.items()]
    width = max(len(row[0]) for row in rows)
    lines = [f"{left.rstrip().ljust(width)}  {right}" for left, right in (*rows, *_KEYS)]
    return "\n".join([*lines[: len(rows)], "", *lines[len(rows) :]])


def _unquoted(text: str) -> str:
    bare = text.strip()
    if bare.startswith(QUOTES) and bare.endswith(QUOTES) and len(bare) >= 2 * len(QUOTES):
        return bare.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return text
