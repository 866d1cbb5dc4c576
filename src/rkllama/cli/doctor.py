"""`rkllama doctor`: gathers the evidence, and prints what `rkllama.board.doctor` makes of it."""

import asyncio
import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from exo.doctor.finding import status
from exo.doctor.page import show
from exo.errors import BadRequest, ExoError, ModelNotFound
from rkllama.board.doctor import examine
from rkllama.board.evidence import Evidence, FoundLibrary, ModelFile
from rkllama.board.facts import read_board
from rkllama.vendor.library import chosen_release, find_library


@click.command(name="doctor")
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print findings and evidence as JSON, for a report.")
@click.pass_context
def doctor(context: click.Context, model: str | None, as_json: bool) -> None:
    """Find out why models do not answer, or answer slowly.

    Looks at the board, the NPU's library, and the names of all models in ~/RKLLAMA/models. With MODEL, an
    .rkllm file or the name of a folder there, loads that one and measures it, for about a minute. Stop
    whatever else uses the NPU first. Ends with status 1 if something is broken.
    """
    evidence = _gather(context.obj, Path.home() / "RKLLAMA" / "models", model)
    findings = examine(evidence)
    if as_json:
        click.echo(msgspec.json.encode({"findings": findings, "evidence": evidence}))
    else:
        show(findings)
    context.exit(status(findings))


def _gather(root: Path, models: Path, model: str | None) -> Evidence:
    file = _model_file(model, models) if model else None
    board = read_board(root)
    try:
        library = find_library(os.environ, Path.home())
        release = os.environ.get("RKLLM_RELEASE") if chosen_release(os.environ) else None
    except ExoError as error:
        found = FoundLibrary(error=error.message)
        return Evidence(board=board, library=found, models=_on_disk([file] if file else _all(models)))
    if file is None:
        return Evidence(board=board, library=_found(library), models=_on_disk(_all(models)))
    from rkllama.board.measure import measure

    click.echo(f"Loading {file.name} and timing three answers ...", err=True)
    measured, working = asyncio.run(measure(file, library, lambda: read_board(root), release=release))
    found = FoundLibrary(path=str(library), release=measured.release) if measured.loaded else _found(library)
    return Evidence(board=board, library=found, models=(measured,), working=working)


def _found(library: Path) -> FoundLibrary:
    from rkllama.board.probe import release_of

    try:
        return FoundLibrary(path=str(library), release=release_of(library))
    except ExoError as error:
        return FoundLibrary(path=str(library), error=error.message)


def _all(models: Path) -> list[Path]:
    return sorted(path for path in models.rglob("*.rkllm") if path.is_file())


def _on_disk(files: Sequence[Path]) -> tuple[ModelFile, ...]:
    from rkllama.board.measure import described

    return tuple(map(described, files))


def _model_file(model: str, models: Path) -> Path:
    """The file that the user means: a path, or a folder's name in `models`."""
    if (path := Path(model).expanduser()).is_file():
        return path
    folders = sorted(each.name for each in models.iterdir() if each.is_dir()) if models.is_dir() else []
    if model not in folders:
        near = difflib.get_close_matches(model, folders, n=3, cutoff=0.4)
        hint = (
            f"Did you mean {' or '.join(near)}?" if near else f"Looked for a folder of that name in {models}."
        )
        raise ModelNotFound(f"There is no model file {model}. {hint}")
    files = _all(models / model)
    if not files:
        raise ModelNotFound(f"There is no .rkllm file in {models / model}.")
    if len(files) > 1:
        names = ", ".join(str(file) for file in files)
        raise BadRequest(f"{model} has several .rkllm files; name one of them: {names}")
    return files[0]
