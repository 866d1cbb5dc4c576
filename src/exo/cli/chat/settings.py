"""How answers are drawn in a chat, and how `/set` changes it. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from exo.chat import Sampling
from exo.cli.chat.nearest import nearest
from exo.errors import BadRequest

# The ranges are those of `exo.chat.Sampling`.
_Temperature = Annotated[float, Meta(ge=0, le=2, title="0 to 2", description="how freely words are chosen")]
_TopP = Annotated[
    float, Meta(gt=0, le=1, title="above 0, to 1", description="draws from the likeliest words of this share")
]
_TopK = Annotated[
    int, Meta(ge=0, le=2**31 - 1, title="0 or more", description="draws from so many words; 0 is from all")
]
_Seed = Annotated[
    int, Meta(ge=-(2**63), le=2**63 - 1, title="a whole number", description="draws the same again")
]
_MaxTokens = Annotated[
    int, Meta(ge=1, le=2**31 - 1, title="1 or more", description="the longest answer, thoughts included")
]
_Think = Annotated[bool, Meta(title="on or off", description="whether a reasoning model thinks")]


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """None leaves a choice to the node."""

    temperature: _Temperature | None = None
    top_p: _TopP | None = None
    top_k: _TopK | None = None
    seed: _Seed | None = None
    max_tokens: _MaxTokens | None = None
    think: _Think | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            max_tokens=self.max_tokens,
        )


_TYPES: dict[str, Any] = {
    "temperature": _Temperature,
    "top_p": _TopP,
    "top_k": _TopK,
    "seed": _Seed,
    "max_tokens": _MaxTokens,
    "think": _Think,
}
NAMES = tuple(_TYPES)

_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def changed(settings: Settings, name: str, value: str) -> Settings:
    """With another value for `name`; "-" leaves it to the node again. Raises `BadRequest` saying what it
    takes, or which names there are."""
    kind = _TYPES.get(name)
    if kind is None:
        raise BadRequest(f"there is no setting '{name}'; {nearest(name, NAMES)}", param=name)
    if value == "-":
        return msgspec.structs.replace(settings, **{name: None})
    try:
        given = _SWITCH[value.lower()] if kind is _Think else msgspec.convert(value, kind, strict=False)
    except (KeyError, msgspec.ValidationError):
        raise BadRequest(f"{name} takes {_about(name).title}, not '{value}'", param=name) from None
    return msgspec.structs.replace(settings, **{name: given})


def shown(settings: Settings, *names: str) -> list[tuple[str, str, str]]:
    """Name, value and meaning of those, or of all. Raises `BadRequest` for a name there is not."""
    rows = []
    for name in names or NAMES:
        if name not in _TYPES:
            raise BadRequest(f"there is no setting '{name}'; {nearest(name, NAMES)}", param=name)
        about = _about(name)
        rows.append((name, _written(getattr(settings, name)), f"{about.title}: {about.description}"))
    return rows


def _about(name: str) -> Meta:
    about = _TYPES[name].__metadata__[0]
    assert isinstance(about, Meta)
    return about


def _written(value: float | bool | None) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "on" if value else "off"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)
