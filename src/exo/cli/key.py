"""`exo key`: the keys that this machine's node asks its clients for."""

import datetime
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from exo.cli import options
from exo.cli.tables import print_table
from exo.configuration.secrets import secret
from exo.errors import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

    from exo.admission.keys import Key

_PER_MINUTE = click.IntRange(1, 10**9)


@click.group()
def key() -> None:
    """Give each client a key of its own, with limits, and take it away again.

    Only hashes of them are kept, in EXO_HOME/keys.json. A running node takes up what changes within a second
    or so. With a key, every request needs one; EXO_API_KEY stays one, an owner's, without limits.
    """


@key.command()
@click.argument("name")
@click.option("--owner", is_flag=True, help="It may also download, delete, load and unload models.")
@click.option("--requests-per-minute", type=_PER_MINUTE, metavar="N", help="More are refused with 429.")
@click.option(
    "--tokens-per-minute",
    type=_PER_MINUTE,
    metavar="N",
    help="The same for tokens, of prompts and answers, counted when an answer ends.",
)
def add(name: str, owner: bool, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
    """Make a key for a client, which you call NAME, and print it: this once, as it is not kept.

    Standard output is the key and nothing else.
    """
    from exo.admission import keyfile
    from exo.admission.keys import NAME, Key, digest, new_key

    if not re.fullmatch(NAME, name):
        raise BadRequest(
            f"'{name}' is no name of a key: up to 64 letters, digits, '.', '_' and '-', the first of them "
            "a letter or a digit"
        )
    made = new_key()
    keyfile.add(
        options.keys_file(),
        Key(
            name=name,
            sha256=digest(made),
            owner=owner,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        ),
    )
    click.echo(made)
    for note in _notes(keyfile.read(options.keys_file()) or (), own=_own()):
        click.echo(note, err=True)


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_keys(as_json: bool) -> None:
    """Show the keys: their names, rights and limits. What they are is not kept."""
    from exo.admission import keyfile
    from exo.admission.keys import OWN

    file = options.keys_file()
    keys = keyfile.read(file)
    if as_json:
        import msgspec

        own = [{**_told(None), "name": OWN, "owner": True}] if _own() else []
        click.echo(msgspec.json.encode({"keys": [*map(_told, keys or ()), *own]}))
        return
    rows = [_row(each) for each in keys or ()]
    if _own():
        rows.append((OWN, "yes", "-", "-", "-"))
    if rows:
        print_table(("NAME", "OWNER", "REQUESTS/MIN", "TOKENS/MIN", "MADE"), rows)
    elif keys is None:
        click.echo("There are no keys, and none is asked for. `exo key add NAME` makes one.")
    else:
        click.echo(f"There are no keys, and nobody is answered. {_open_again(file)}")


@key.command()
@click.argument("name")
def rm(name: str) -> None:
    """Take a key away: who has it is answered no more."""
    from exo.admission import keyfile

    file = options.keys_file()
    keyfile.remove(file, name)
    click.echo(f"The key '{name}' is taken away.")
    if not keyfile.read(file) and not _own():
        click.echo(f"It was the last one, so nobody is answered now. {_open_again(file)}")


def _own() -> bool:
    """Whether the node has a key of its own settings, as far as this command can see them."""
    return bool(secret(options.configured(), "api_key"))


def _notes(keys: "Sequence[Key]", *, own: bool) -> list[str]:
    """What to know about the last of the keys, which has just been made."""
    notes = ["This is the key, shown this once. Its client sends it as 'Authorization: Bearer KEY'."]
    if len(keys) == 1 and not own:
        notes.append("It is the first one: from now on this machine's node asks every client for a key.")
    if not own and not any(each.owner for each in keys):
        notes.append(
            "None is an owner's yet, which `exo pull` and the like need: `exo key add NAME --owner` makes "
            "one. What such commands send is EXO_API_KEY."
        )
    return notes


def _open_again(file: "Path") -> str:
    return f"`exo key add NAME` makes one; to ask for none again, remove {file} and start the node again."


def _row(key: "Key") -> tuple[str, ...]:
    return (
        key.name,
        "yes" if key.owner else "no",
        str(key.requests_per_minute or "-"),
        str(key.tokens_per_minute or "-"),
        f"{key.created:%Y-%m-%d}" if key.created else "-",
    )


def _told(key: "Key | None") -> dict[str, Any]:
    """Without its hash, which is nobody's business. None is one that has nothing but a name."""
    names = ("name", "owner", "requests_per_minute", "tokens_per_minute", "created")
    return {name: getattr(key, name, None) for name in names}
