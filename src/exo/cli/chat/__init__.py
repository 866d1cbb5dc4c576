"""`exo run`: a chat in the terminal.

`conversation`, `settings`, `commands` and `route` decide, and are pure. `asked` is the node that answers,
`answering` one answer of it; `terminal` and `prompt` are what a user sees, `history` and `files` what is
kept.
"""

from exo.cli.chat.command import run

__all__ = ["run"]
