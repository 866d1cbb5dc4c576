"""What a model's chat template shows of it, where that lies beside the weights.

A template within a GGUF file stands behind its vocabulary, and to read that of every file at start would take
seconds on a board. Folders of the hub have it in a file of its own since 2025.
"""

from collections.abc import Iterator
from pathlib import Path

from exo.cards import Capability
from exo.errors import EngineFailed
from exo.text.calls import style_of
from exo.text.thoughts import tags_of

_TEMPLATE = "chat_template.jinja"


def shown_beside(name: str, path: Path) -> tuple[Capability, ...]:
    """What the model of that name at `path`, a file or a folder, can do besides answering. Nothing is known
    where there is no template. Raises `EngineFailed` for one that cannot be read."""
    folder = path if path.is_dir() else path.parent
    file = folder / _TEMPLATE
    # A file among those of other models is named after itself.
    if folder.name != name.partition(":")[0].rpartition("/")[2] or not file.is_file():
        return ()
    try:
        return tuple(_shown(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise EngineFailed(f"{file} cannot be read: {error}") from error


def _shown(template: str) -> Iterator[Capability]:
    if tags_of(template):
        yield "thinking"
    if style_of(template):
        yield "tools"
