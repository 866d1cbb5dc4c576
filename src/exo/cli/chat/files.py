"""Conversations in files."""

import os
from pathlib import Path

from exo.cli.chat import conversation
from exo.cli.chat.conversation import Saved
from exo.errors import BadRequest


class Files:
    """Those of one chat: what it has saved or loaded it may write anew, and nothing else. Both methods raise
    `BadRequest` naming the file."""

    def __init__(self) -> None:
        self._ours: set[Path] = set()

    def save(self, name: str, saved: Saved) -> Path:
        """As Markdown where it is called .md, and else as JSON."""
        file = _path(name)
        content = conversation.to_markdown(saved) if _is_markdown(file) else conversation.to_json(saved)
        try:
            if file.resolve() in self._ours:
                _replace(file.resolve(), content)
            else:
                _write_new(file, content)
        except FileExistsError as error:
            raise BadRequest(f"{file} exists, and is not this chat's: choose another name") from error
        except OSError as error:
            raise BadRequest(f"cannot write {file}: {error.strerror}") from error
        self._ours.add(file.resolve())
        return file

    def load(self, name: str) -> Saved:
        file = _path(name)
        if _is_markdown(file):
            raise BadRequest(f"{file} is for people: /load takes what /save writes to any other name")
        try:
            saved = conversation.from_json(file.read_bytes())
        except OSError as error:
            raise BadRequest(f"cannot read {file}: {error.strerror}") from error
        except BadRequest as error:
            raise BadRequest(f"{file}: {error.message}") from error
        self._ours.add(file.resolve())
        return saved


def _write_new(file: Path, content: bytes) -> None:
    """Whole or not at all, as on a full disk. Raises `FileExistsError` for one that is there."""
    with file.open("xb") as out:
        try:
            out.write(content)
            out.flush()
        except OSError:
            file.unlink()
            raise


def _replace(file: Path, content: bytes) -> None:
    """What was saved before stays until all of this is on the disk."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.chmod(file.stat().st_mode)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _path(name: str) -> Path:
    if "\0" in name:
        raise BadRequest("no file's name has a character of the number 0 in it")
    return Path(os.path.expanduser(name))


def _is_markdown(file: Path) -> bool:
    return file.suffix.lower() == ".md"
