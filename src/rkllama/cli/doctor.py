"""`rkllama doctor`: gathers the evidence, and prints what `rkllama.board.doctor` makes of it."""

import asyncio
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import msgspec

from exo.configuration.environment import check_environment
from exo.configuration.noted import Faulty
from exo.configuration.secrets import secret
from exo.doctor.finding import Finding, status
from exo.doctor.page import show
from exo.errors import BadRequest, ExoError, ModelNotFound
from rkllama.board.doctor import examine
from rkllama.board.evidence import Evidence, FoundLibrary, ModelFile
from rkllama.board.facts import read_board
from rkllama.cli.configured import asked_for_nothing, given_to
from rkllama.cli.keys import MODELS, VARIABLES
from rkllama.vendor.library import chosen_release, find_library

_RENAME = "Unset or rename it: rkllama does not start with it."
_MEND = "Mend it: rkllama does not start with it. `rkllama config --check` tells all."


@click.command(name="doctor")
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print findings and evidence as JSON, for a report.")
@click.pass_context
def doctor(context: click.Context, model: str | None, as_json: bool) -> None:
    """Find out why models do not answer, or answer slowly.

    Looks at the board, the NPU's library, and the names of all models in ~/RKLLAMA/models, or where the
    configuration says that they are. With MODEL, an .rkllm file or the name of a folder there, loads that
    one and measures it, for about a minute. Stop whatever else uses the NPU first. Ends with status 1 if
    something is broken.
    """
    models, environ, faults = _configured()
    evidence = _gather(context.obj, models, environ, model)
    findings = (*faults, *examine(evidence))
    if as_json:
        click.echo(msgspec.json.encode({"findings": findings, "evidence": evidence}))
    else:
        show(findings)
    context.exit(status(findings))


def _configured() -> tuple[Path, Mapping[str, str], tuple[Finding, ...]]:
    """Where models are, the environment with what the file says of the library, and what is wrong with
    either. Where one of them cannot be read, models are where they usually are."""
    faults = [Finding("broken", "Environment", each, _RENAME) for each in _unknown()]
    models, said = MODELS, {}
    try:
        configured = asked_for_nothing()
        given = given_to(configured)
        models = given["models"]
        named = {"RKLLM_LIB_PATH": given["library"], "RKLLM_RELEASE": given["release"]}
        said = {name: str(value) for name, value in named.items() if value is not None}
        secret(configured, "api_key")
    except Faulty as error:
        # The finding about the library says by itself what is wrong with the vendor's variables.
        told = (problem for problem in error.problems if not problem.startswith("RKLLM_"))
        faults += [Finding("broken", "Configuration", each, _MEND) for each in told]
    return models.expanduser(), {**os.environ, **said}, tuple(faults)


def _unknown() -> Iterator[str]:
    """What is wrong with the names of the environment's own variables."""
    for name, value in os.environ.items():
        try:
            check_environment({name: value}, "rkllama", VARIABLES)
        except click.UsageError as error:
            yield error.message


def _gather(root: Path, models: Path, environ: Mapping[str, str], model: str | None) -> Evidence:
    file = _model_file(model, models) if model else None
    board = read_board(root)
    try:
        library = find_library(environ, Path.home())
        release = environ.get("RKLLM_RELEASE") if chosen_release(environ) else None
    except ExoError as error:
        found = FoundLibrary(error=error.message)
        return Evidence(board=board, library=found, models=_on_disk([file] if file else _all(models)))
    if file is None:
        return Evidence(board=board, library=_found(library, environ), models=_on_disk(_all(models)))
    from rkllama.board.measure import measure

    click.echo(f"Loading {file.name} and timing three answers ...", err=True)
    measured, working = asyncio.run(measure(file, library, lambda: read_board(root), release=release))
    found = (
        FoundLibrary(path=str(library), release=measured.release)
        if measured.loaded
        else _found(library, environ)
    )
    return Evidence(board=board, library=found, models=(measured,), working=working)


def _found(library: Path, environ: Mapping[str, str]) -> FoundLibrary:
    from rkllama.board.probe import release_of

    try:
        return FoundLibrary(path=str(library), release=release_of(library, environment=environ))
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
