"""`exo bench`: how fast a server answers, by this machine's clock."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click
import msgspec

from exo.benchmark.energy import Meter, sensors
from exo.benchmark.results import (
    PROMPTS,
    WARM_UP,
    Report,
    Run,
    drawn,
    measured,
    model_result,
    references,
    table,
    to_json,
)
from exo.chat import ChatRequest, Finished, Message, Sampling
from exo.cli import completion, https, options
from exo.cli.tables import print_table
from exo.errors import (
    UNFINISHED,
    BadRequest,
    EngineFailed,
    ExoError,
    Forbidden,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    NotReady,
)
from exo.nodes import Cluster

if TYPE_CHECKING:
    import ssl

    from exo.http.remote import Remote

# A server that is no node says nothing while it loads a model or reads a long prompt.
_SILENCE = 600.0
_WARM_UP_TOKENS = 16
_WIDTH = 24

T = TypeVar("T")


def _writable(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """Told now, and not after minutes of measuring."""
    if given and given != "-" and not Path(given).absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder for '{given}'")
    return given


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=completion.here)
@click.option(
    "--url",
    envvar="EXO_URL",
    help=f"The node to ask, or any OpenAI-compatible server. [default: {options.LOCAL_URL}]",
)
@click.option(
    "--runs", default=3, show_default=True, type=click.IntRange(1, 1000), help="Answers to each prompt."
)
@click.option(
    "--max-tokens",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Length of an answer at most.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    callback=_writable,
    help="Write all figures to this file; - is standard output, in place of the tables.",
)
@click.option(
    "--svg",
    "svg_file",
    type=click.Path(dir_okay=False, writable=True),
    callback=_writable,
    help="Draw tokens/s by prompt into this file.",
)
def bench(
    models: tuple[str, ...],
    url: str | None,
    runs: int,
    max_tokens: int,
    json_file: str | None,
    svg_file: str | None,
) -> None:
    """Measure how fast MODELs answer the five prompts of the first exo-rkllama's benchmark.

    Without a MODEL it is the node's default one, or its only one. Answers are asked for one at a time and
    without chance (temperature 0), after one that warms up; figures are medians. Ctrl-C shows what has been
    measured so far. EXO_API_KEY is the server's key. Ends with status 1 where a prompt failed.
    """
    asked = options.asked(url)
    measuring = Measuring(asked.url.rstrip("/").removesuffix("/v1"), runs, max_tokens, sys.stderr)
    stopped = False
    try:
        asyncio.run(_measure(measuring, models, asked.key, asked.tls))
    except KeyboardInterrupt:
        stopped = True
    measuring.clear()
    report = measuring.report(complete=not stopped)
    if json_file != "-":
        _print(report)
    _write(report, json_file, svg_file)
    if stopped:
        done = f"{measuring.done} of {measuring.wanted}" if measuring.wanted else "none"
        click.echo(f"Stopped: this is incomplete, {done} answers were measured.", err=True)
        raise click.exceptions.Exit(130)
    if report.failed:
        raise click.ClickException("not every prompt was answered")


class Measuring:
    """What has been measured so far: it is shown even where the rest is given up."""

    def __init__(self, url: str, runs: int, max_tokens: int, out: TextIO) -> None:
        self.url = url
        self.models: tuple[str, ...] = ()
        self.cluster: Cluster | None = None
        self.done = 0
        self.meter = Meter(())
        """Of the server's machine, where that is this one."""
        self._runs = runs
        self._max_tokens = max_tokens
        self._out = out
        self._figures: dict[str, dict[str, list[Run]]] = {}
        self._errors: dict[str, dict[str, str]] = {}
        self._cold: dict[str, str] = {}

    @property
    def wanted(self) -> int:
        return len(self.models) * len(PROMPTS) * self._runs

    async def model(self, remote: "Remote", model: str) -> None:
        """All prompts in turn, then again all that have not failed. So no prompt follows itself and finds
        itself in the KV cache, and a machine that grows hot slows all of them down alike."""
        figures = self._figures.setdefault(model, {})
        errors = self._errors.setdefault(model, {})
        self._draw(model)
        try:
            await _answer(remote, model, WARM_UP, min(_WARM_UP_TOKENS, self._max_tokens), self.meter)
        except ExoError as error:
            self._cold[model] = error.message
            return
        for _ in range(self._runs):
            for prompt in PROMPTS:
                if prompt in errors:
                    continue
                try:
                    run = await _answer(remote, model, prompt, self._max_tokens, self.meter)
                except ExoError as error:
                    errors[prompt] = error.message
                else:
                    figures.setdefault(prompt, []).append(run)
                    self.done += 1
                self._draw(model)

    def report(self, *, complete: bool) -> Report:
        """Of the models that were begun."""
        return Report(
            url=self.url,
            complete=complete,
            runs=self._runs,
            max_tokens=self._max_tokens,
            energy=self.meter.names,
            models=tuple(
                model_result(
                    model,
                    self._figures[model],
                    self._errors[model],
                    references(model, self.cluster),
                    self._cold.get(model),
                )
                for model in self._figures
            ),
        )

    def _draw(self, model: str) -> None:
        if self._out.isatty():
            full = _WIDTH * self.done // self.wanted
            bar = f"[{'#' * full}{'.' * (_WIDTH - full)}] {self.done} of {self.wanted} answers"
            self._out.write(f"\r{bar}  {model}\x1b[K")
            self._out.flush()

    def clear(self) -> None:
        """Takes the bar off the terminal."""
        if self._out.isatty():
            self._out.write("\r\x1b[K")
            self._out.flush()


async def _measure(
    measuring: Measuring, models: Sequence[str], key: str | None, tls: "ssl.SSLContext | None"
) -> None:
    async with _server(measuring.url, key, tls) as remote:
        measuring.models = tuple(dict.fromkeys(await _chosen(remote, models)))
        measuring.cluster = await _told(remote, "/v1/cluster", Cluster)
        if _is_here(measuring.url):
            measuring.meter = Meter(sensors())
        watching = asyncio.create_task(measuring.meter.watch())
        try:
            for model in measuring.models:
                await measuring.model(remote, model)
        finally:
            watching.cancel()


def _is_here(url: str) -> bool:
    """Whether the server is on this machine, whose energy is what its answers take."""
    from urllib.parse import urlsplit

    from exo.cluster.network import addresses

    host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.") or host in map(str, addresses())


@asynccontextmanager
async def _server(url: str, key: str | None, tls: "ssl.SSLContext | None") -> "AsyncIterator[Remote]":
    from exo.http.remote import Remote

    remote = Remote(url, key=key, silence=_SILENCE, tls=tls)
    try:
        yield remote
    finally:
        await remote.close()


async def _chosen(remote: "Remote", models: Sequence[str]) -> Sequence[str]:
    """The models to ask. Raises `ModelNotFound` for one that the server does not list, and `BadRequest` where
    none was named and it is not clear which."""
    from exo.wire import openai

    try:
        cards = openai.decode_models(await remote.get("/v1/models"), "remote")
    except NotReady as error:
        remedy = https.advice(error) or "; `exo` starts a node, --url names another server"
        raise NotReady(f"{error.message}{remedy}") from error
    except (NotFound, MethodNotAllowed):
        if models:
            return models  # a server without a list
        raise
    ids = [card.id for card in cards]
    listed = f"it has {', '.join(ids)}" if ids else "it has none"
    for model in models:
        if model not in ids:
            raise ModelNotFound(f"{remote.url} has no model '{model}': {listed}", param="model")
    if models:
        return models
    if default := await _default(remote):
        return (default,)
    own = [id for id in ids if id != "auto"]
    if len(own) != 1:
        raise BadRequest(f"name a MODEL, as {remote.url} has no default one: {listed}", param="model")
    return own


async def _default(remote: "Remote") -> str | None:
    """The model that a node answers with where none is named."""
    from exo.wire.cluster import RoutesAnswer

    answer = await _told(remote, "/v1/route/explain", RoutesAnswer)
    return answer.model if answer else None


async def _told(remote: "Remote", path: str, kind: type[T]) -> T | None:
    """What a node says at a route of its own; None where the server is no node, and refuses to say anything
    there or says something else."""
    try:
        return msgspec.json.decode(await remote.get(path), type=kind)
    except (BadRequest, Forbidden, NotFound, MethodNotAllowed):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def _answer(remote: "Remote", model: str, prompt: str, max_tokens: int, meter: Meter) -> Run:
    """Raises what the answer failed with."""
    request = ChatRequest(
        model=model,
        messages=(Message("user", prompt),),
        sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
    )
    pieces: list[float] = []
    before = meter.look()
    asked = time.perf_counter()
    async with aclosing(remote.respond(request)) as deltas:
        async for delta in deltas:
            if isinstance(delta, Finished):
                run, after = measured(asked, pieces, delta), meter.look()
                joules = None if before is None or after is None else after - before
                return msgspec.structs.replace(run, joules=joules)
            pieces.append(time.perf_counter())
    raise EngineFailed(UNFINISHED)


def _print(report: Report) -> None:
    for result in report.models:
        if result.error:
            continue
        click.echo(f"{result.model} at {report.url}")
        head, *rows = table(result)
        print_table(head, rows)
        if any(run.counted for each in result.prompts for run in each.runs):
            click.echo("* the server sends no usage: pieces of the answer were counted in place of tokens")
        if any(run.joules is not None for each in result.prompts for run in each.runs):
            click.echo(f"joules are those of the whole machine, by its sensor {report.energy}")
        for reference in result.references:
            click.echo(f"{reference.tokens_per_second:.2f} tokens/s: {reference.what}")
        click.echo()


def _write(report: Report, json_file: str | None, svg_file: str | None) -> None:
    """The files, and what failed on standard error."""
    for result in report.models:
        if result.error:
            click.echo(f"{result.model}: the warm-up failed: {result.error}", err=True)
        for each in result.prompts:
            if each.error:
                click.echo(f'{result.model}: "{each.prompt}" failed: {each.error}', err=True)
    if json_file == "-":
        click.echo(to_json(report), nl=False)
    elif json_file:
        _write_file(json_file, to_json(report))
    if svg_file:
        _write_file(svg_file, drawn(report).encode())


def _write_file(name: str, content: bytes) -> None:
    try:
        Path(name).write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"cannot write {name}: {error.strerror}") from error
