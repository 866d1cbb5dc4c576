"""`rkllama tune`: the board's clocks at full speed, and as they were."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from exo.errors import NotReady
from rkllama.board.facts import read_board
from rkllama.board.tune import (
    GOVERNOR,
    STATE,
    Outcome,
    Write,
    apply,
    left_alone,
    plan,
    plan_revert,
    require_root,
    revert,
)


@click.command(name="tune")
@click.option("--dry-run", is_flag=True, help="Only show what would be changed.")
@click.option("--revert", "back", is_flag=True, help="Set all back to what it was before the first time.")
@click.pass_context
def tune(context: click.Context, dry_run: bool, back: bool) -> None:
    """Let CPU, NPU and memory run at full speed.

    Sets their governors to `performance`, as root, until a restart or --revert. The board gets warmer and
    takes more power, when idle, too.
    """
    root: Path = context.obj
    state = root / STATE.lstrip("/")
    if root == Path("/") and not dry_run:
        require_root(os.geteuid())
    if dry_run:
        for write in plan_revert(root, state) if back else _plan(root):
            click.echo(f"would change {write}")
        return
    outcomes = revert(root, state) if back else apply(_plan(root), root, state)
    _print(outcomes)
    if any(outcome.error is not None for outcome in outcomes):
        context.exit(1)


def _plan(root: Path) -> Sequence[Write]:
    """What is to be changed; prints what is not, and why."""
    board = read_board(root)
    if not board.clocks:
        why = "; ".join(reason for reason in board.unread if "clock" in reason.partition(":")[0])
        raise NotReady(f"This machine shows no clocks that could be changed. {why}.")
    writes, left = plan(board), left_alone(board)
    for sentence in left:
        click.echo(sentence)
    if not writes and not left:
        click.echo(f"Nothing to change: every governor is {GOVERNOR}.")
    return writes


def _print(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.error is None:
            click.echo(str(outcome.write))
        else:
            click.echo(f"FAILED {outcome.write}. {outcome.error}", err=True)
    if failed := [outcome for outcome in outcomes if outcome.error is not None]:
        done = len(outcomes) - len(failed)
        click.echo(f"{len(failed)} of {len(outcomes)} changes failed; {done} were made and stay.", err=True)
