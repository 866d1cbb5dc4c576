"""The `rkllm-convert` command line. `rkllm-convert MODEL` alone is `rkllm-convert convert MODEL`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, TypeVar

import click

from rkllm_convert import __version__, batch, convert, copy, doctor, fetch, serve, showing, table, toolkit
from rkllm_convert.errors import ConvertError, Refused
from rkllm_convert.machine import machine
from rkllm_convert.request import Machine, Request
from rkllm_convert.toolkit import Installed

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """What is no command is a model to convert; failures are lines, not a traceback."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = ["convert", *args]
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ConvertError as error:
            raise click.ClickException(error.message) from error


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


_python = click.option(
    "--python",
    default=sys.executable,
    envvar="RKLLM_CONVERT_PYTHON",
    metavar="PATH",
    help="The Python that has the toolkit, or RKLLM_CONVERT_PYTHON.  [default: this one]",
)
_out = click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Folder of models; the model's own is made in it.",
)
_asking = _options(
    click.option("-p", "--platform", required=True, metavar="CHIP", help=", ".join(table.PLATFORMS) + "."),
    click.option("-q", "--dtype", help="Quantisation, like w8a8.  [default: the platform's fast one]"),
    click.option("--algorithm", default="normal", show_default=True, help=", ".join(table.ALGORITHMS) + "."),
    click.option(
        "--hybrid-rate", type=float, default=0.0, show_default=True, help="Share in the other kind."
    ),
    click.option("--npu-cores", type=int, help="NPU cores to use.  [default: all]"),
    click.option(
        "--max-context", type=int, help="Tokens, a multiple of 32.  [default: 4096, or the model's]"
    ),
    click.option("--optimization-level", type=int, default=0, show_default=True, help="0 is fast, 1 is not."),
    click.option("--lora", metavar="DIR", help="A LoRA adapter for it."),
    click.option("--dataset", metavar="FILE", help="Calibration data, JSON."),
    click.option(
        "--calibrate", type=int, default=0, metavar="N", help="Have the model answer N prompts for it."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Which prompts those are."),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
    click.option(
        "--load-dtype", type=click.Choice(list(table.LOAD_DTYPES)), default="float32", show_default=True
    ),
    click.option("--name", help="What the model is called on the board.  [default: as its maker calls it]"),
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_replace = click.option("--replace", "replace_", is_flag=True, help="Replace another model of that name.")
_remote = _options(
    click.option("--port", type=int, help="ssh's port."),
    click.option("--identity", metavar="FILE", help="ssh's key."),
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rkllm-convert")
def app() -> None:
    """Convert models to .rkllm files for Rockchip's NPU.

    `rkllm-convert MODEL -p rk3588` makes a folder that rkllama scans; MODEL is a Hugging Face folder, a GGUF
    file (fp16, q4_0), or USER/REPO[@REVISION] of the hub.
    """


@app.command(name="convert")
@click.argument("model")
@_asking
@_out
@_python
@_replace
@click.option("--to", metavar="USER@HOST[:DIR]", help="Copy it to this board afterwards.")
def convert_(model: str, out: Path, python: str, replace_: bool, to: str | None, **asked: Any) -> None:
    """Convert MODEL, which takes minutes to hours. What was broken off goes on where it can."""
    there = copy.board(to) if to else None
    installed = toolkit.inspect(python)
    conversion = convert.Conversion(
        fetch.find(model), Request(**asked), out, python, machine(installed, out), replace_
    )
    for note in convert.planned(conversion).notes:
        showing.say(f"Note: {note}")
    folder = convert.convert(conversion, showing.Bars())
    click.echo(str(folder))
    if there:
        click.echo(f"{there.host}:{copy.copy(folder, there, showing.say, replace=replace_)}")


@app.command()
@click.argument("model")
@_asking
@_out
@_python
@click.option("--toolkit", "release", metavar="RELEASE", help="Plan for this release, installed or not.")
@_as_json
def plan(model: str, out: Path, python: str, release: str | None, as_json: bool, **asked: Any) -> None:
    """Show what converting MODEL would do and take, or why it cannot be. Ends with status 1 then.

    Of a model on the hub only the small files are fetched.
    """
    facts = _machine(python, out, release)
    found = fetch.find(model)
    made = convert.planned(convert.Conversion(found, Request(**asked), out, python, facts))
    if as_json:
        click.echo(json.dumps({**asdict(made), "file": showing.file_of(made)}, indent=1))
        return
    for line in showing.plan_lines(made, found.source):
        click.echo(line)


@app.command(name="batch")
@click.argument("file")
@click.option("-p", "--platform", help="Only the models for this chip.")
@_out
@_python
@_replace
def batch_(file: str, platform: str | None, out: Path, python: str, replace_: bool) -> None:
    """Convert the models that FILE lists, or a recipe. All are checked before the first is begun.

    One that fails holds up no other; the command then ends with status 1. Run again, it does what is left.
    """
    rows = batch.read(batch.find(file), platform)
    facts = machine(toolkit.inspect(python), out)
    conversions, refused = [], []
    for row in rows:
        conversion = convert.Conversion(fetch.find(row.model), row.request, out, python, facts, replace_)
        try:
            convert.planned(conversion)
        except Refused as error:
            refused.append(f"{row.model}: {error.message}")
        conversions.append((row, conversion))
    if refused:
        raise Refused("\n".join(refused))
    failed = []
    for row, conversion in conversions:
        if not _converted(row, conversion):
            failed.append(row.model)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}")


@app.command(name="doctor")
@_out
@_python
@_as_json
@click.pass_context
def doctor_(context: click.Context, out: Path, python: str, as_json: bool) -> None:
    """Find out what keeps this machine from converting. Ends with status 1 if something does."""
    error = ""
    installed: Installed | None = None
    try:
        installed = toolkit.inspect(python)
    except ConvertError as failure:
        error = failure.message
    facts = machine(installed or Installed(python=(sys.version_info[0], sys.version_info[1])), out)
    findings = doctor.examine(installed, facts, error)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=1))
    else:
        for line in showing.finding_lines(findings):
            click.echo(line)
    if any(each.level == "broken" for each in findings):
        context.exit(1)


@app.command(name="copy")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("board", metavar="USER@HOST[:DIR]")
@_remote
@_replace
def copy_(folder: Path, board: str, port: int | None, identity: str | None, replace_: bool) -> None:
    """Copy the model in FOLDER to a board, into ~/RKLLAMA/models or DIR."""
    to = copy.board(board, port=port, identity=identity)
    click.echo(f"{to.host}:{copy.copy(folder, to, showing.say, replace=replace_)}")


@app.command(name="serve")
@click.argument("models", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8099, show_default=True, help="0 is a free one."
)
def serve_(models: Path, host: str, port: int) -> None:
    """Serve the models in the folder MODELS, read only, for boards to pull, until Ctrl-C."""
    shelf = serve.Shelf(models)
    server = serve.server(shelf, host, port)
    with server:
        showing.say(f"listening on http://{host}:{server.server_port}")
        showing.say(f"On the board: HF_ENDPOINT=http://THIS-MACHINE:{server.server_port} rkllama")
        for name, described in shelf.models().items():
            showing.say(f"exo pull {serve.OWNER}/{name}/{described['file']} --url http://BOARD:8080")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            showing.say("stopped")


def _converted(row: batch.Row, conversion: convert.Conversion) -> bool:
    """Whether it went well; says what came of it."""
    try:
        click.echo(str(convert.convert(conversion, showing.Bars())))
    except ConvertError as error:
        click.echo(f"{row.model} FAILED: {error.message}", err=True)
        return False
    return True


def _machine(python: str, out: Path, release: str | None) -> Machine:
    """This machine; with a release, as if that were installed in a Python that it is made for."""
    if release is None:
        return machine(toolkit.inspect(python), out)
    number = table.release_of(release)
    known = table.toolkit(number) if number else None
    own = Installed(python=(sys.version_info[0], sys.version_info[1]), toolkit=release, cuda=True)
    facts = machine(own, out)
    pythons: tuple[tuple[int, int], ...] = known.pythons if known else ()
    changes: dict[str, Any] = {"system": "Linux", "machine": "x86_64"}
    if pythons and facts.python not in pythons:
        changes["python"] = pythons[-1]
    return replace(facts, **changes)


def main() -> None:
    app()
