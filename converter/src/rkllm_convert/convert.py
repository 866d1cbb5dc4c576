"""A conversion from its beginning to a folder that rkllama scans.

Theory of operation. All is made in a hidden folder beside the final one, `.NAME.partial`, locked while a run
is at it. Three steps can be taken up after a break: fetching the model (the hub's cache), its answers for
calibration (row by row), and the file itself, which is made in one piece by the toolkit and is kept with its
checksum. When all is there and on the disk, one rename gives the folder its name: there is a whole model
under it, or none. A run for what is there already finds it so, by the card's key, and does nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from rkllm_convert import calibrate, card, estimates, names, steps, toolkit
from rkllm_convert import source as sources
from rkllm_convert.errors import BadInput, ConvertError, Refused, ToolkitFailed
from rkllm_convert.fetch import Found
from rkllm_convert.log import Progress
from rkllm_convert.plan import Plan, check
from rkllm_convert.request import Machine, Request
from rkllm_convert.source import Source

Say = Callable[[str, Optional[Progress]], None]
"""Told of each step's beginning, and of its progress."""
_DATASET, _EXPORT, _MADE = "calibration.json", "export", "model.rkllm"
# A file that is smaller than this share of what is expected was cut short.
_LEAST_SHARE = 0.3


@dataclass(frozen=True)
class Conversion:
    """What is to be made of what, where, and with which Python."""

    found: Found
    request: Request
    out: Path
    python: str
    machine: Machine
    replace: bool = False


def planned(conversion: Conversion) -> Plan:
    """The plan, with everything checked that can be before the first step: files of the user's, too. Raises
    `Refused` and `BadInput`."""
    request = conversion.request
    plan = check(request, conversion.found.source, conversion.machine, fetched=conversion.found.here)
    names.check_name(plan.name)
    if request.calibrate:
        calibrate.chosen(request.calibrate, request.seed)
    if request.dataset:
        calibrate.read(Path(request.dataset))
    if request.lora and not (Path(request.lora) / "adapter_config.json").is_file():
        raise BadInput(f"--lora {request.lora} is no LoRA: adapter_config.json is not in it")
    return plan


def convert(conversion: Conversion, say: Say) -> Path:
    """The folder of the model. Raises kinds of `ConvertError`; what is done is kept for the next time."""
    # Children work in a folder of their own.
    conversion = dataclasses.replace(conversion, out=conversion.out.absolute())
    plan = planned(conversion)
    final = conversion.out / plan.name
    hidden = conversion.out / f".{plan.name}.partial"
    with steps.locked(hidden):
        key = _key(conversion, plan)
        if _is_there(final, key, conversion.replace):
            say(f"{final} is there already, made of the same", None)
            shutil.rmtree(hidden)
            return final
        if not conversion.found.here:
            say(f"Fetching {plan.name}", None)
        source = conversion.found.fetch(lambda what: say(f"Fetching {what}", None))
        done = steps.Steps(hidden)
        calibration = _calibrate(conversion, source, hidden, done, say)
        made = _make(conversion, plan, source, calibration, hidden, done, say)
        _finish(plan, source, calibration, made, hidden, final, key)
        shutil.rmtree(hidden)
    return final


def _key(conversion: Conversion, plan: Plan) -> str:
    request = conversion.request
    data: Any = (plan.rows, plan.seed, steps.sha256(calibrate.PROMPTS)) if plan.rows else None
    if request.dataset:
        data = steps.sha256(Path(request.dataset))
    lora = sources.folder_digest(Path(request.lora)) if request.lora else None
    return steps.key_of(
        sources.fingerprint(conversion.found.source),
        plan.name,
        plan.release,
        plan.load,
        plan.build,
        data,
        lora,
    )


def _is_there(final: Path, key: str, replace: bool) -> bool:
    if not final.exists():
        return False
    try:
        if card.checked(final)["key"] == key:
            return True
        why = "another model, or one that was made otherwise,"
    except ConvertError as error:
        why = f"something else ({error.message})"
    if replace:
        return False
    raise Refused(f"{final} holds {why} already. Give it another --name, or --replace it.")


def _calibrate(
    conversion: Conversion, source: Source, hidden: Path, done: steps.Steps, say: Say
) -> dict[str, Any] | None:
    """What is noted of the calibration data, which then is in its file; None where there is none."""
    request = conversion.request
    if request.dataset:
        content, rows = calibrate.read(Path(request.dataset))
        (hidden / _DATASET).write_bytes(content)
        return {"rows": rows, "seed": None, "sha256": steps.sha256(hidden / _DATASET)}
    if not request.calibrate:
        return None
    texts = calibrate.chosen(request.calibrate, request.seed)
    key = steps.key_of(sources.fingerprint(source), texts, request.device, request.load_dtype)
    if done.done("calibrate", key) is None:
        say("Writing calibration data", None)
        _forget_other_rows(hidden, key)
        content = calibrate.generate(
            conversion.python,
            source,
            texts,
            hidden,
            device=request.device,
            dtype=request.load_dtype,
            on_progress=lambda progress: say("", progress),
        )
        steps.write_whole(hidden / _DATASET, content)
        done.finish("calibrate", key, [_DATASET])
    return {"rows": len(texts), "seed": request.seed, "sha256": steps.sha256(hidden / _DATASET)}


def _forget_other_rows(hidden: Path, key: str) -> None:
    """Rows of another run are no beginning of this one's."""
    marker, rows = hidden / "calibration.key", hidden / "calibration.jsonl"
    if rows.exists() and (not marker.exists() or marker.read_text() != key):
        rows.unlink()
    marker.write_text(key)


def _make(
    conversion: Conversion,
    plan: Plan,
    source: Source,
    calibration: Mapping[str, Any] | None,
    hidden: Path,
    done: steps.Steps,
    say: Say,
) -> Mapping[str, Any]:
    """The .rkllm file in its place in the hidden folder; its files with checksums, and its context."""
    lora = conversion.request.lora
    key = steps.key_of(_key(conversion, plan), calibration)
    kept = done.done("make", key)
    if kept is not None:
        say("The .rkllm file is there from the last time", None)
        return kept
    export = hidden / _EXPORT
    if export.exists():
        shutil.rmtree(export)
    export.mkdir()
    say(f"Converting with toolkit {plan.release}", None)
    try:
        outcome = toolkit.run(
            conversion.python,
            _calls(plan, source, hidden if calibration else None, export, lora),
            hidden,
            lambda progress: say("", progress),
        )
        files = _exported(export, source, plan)
    except BaseException:
        shutil.rmtree(export)
        raise
    context = outcome.context or plan.context
    if plan.context is not None and context != plan.context:
        say(f"The toolkit has made it for a context of {context} tokens, not {plan.context}", None)
    say("Checking what was made", None)
    return done.finish("make", key, files, context=context, seconds=outcome.seconds)


def _calls(
    plan: Plan, source: Source, data: Path | None, export: Path, lora: str | None
) -> list[toolkit.Call]:
    if source.kind == "gguf":
        load = toolkit.Call("load_gguf", {"model": str(source.path.absolute())})
    else:
        adapter = str(Path(lora).absolute()) if lora else None
        arguments = {"model": str(source.path.absolute()), "model_lora": adapter, **plan.load}
        load = toolkit.Call("load_huggingface", arguments)
    dataset = str((data / _DATASET).absolute()) if data else None
    return [
        load,
        toolkit.Call("build", {**plan.build, "dataset": dataset}),
        # The name of its parameter differs between documents.
        toolkit.Call("export_rkllm", positional=[str((export / _MADE).absolute())]),
    ]


def _exported(export: Path, source: Source, plan: Plan) -> list[str]:
    """Names of what was written, the model first. With a LoRA there may be a file of its own."""
    found = sorted(path.name for path in export.glob("*.rkllm"))
    if _MADE not in found:
        raise ToolkitFailed(
            f"The toolkit's export_rkllm returned 0 and wrote no {_MADE}.", code="nothing_written"
        )
    size = (export / _MADE).stat().st_size
    expected = estimates.file_bytes(source.parameters, str(plan.build["quantized_dtype"]))
    if size < _LEAST_SHARE * expected:
        raise ToolkitFailed(
            f"The toolkit's export_rkllm has written {size:,} bytes, where about {expected:,} were expected: "
            "it was cut short. Look for room on the disk, and run the same command again.",
            code="cut_short",
        )
    return [f"{_EXPORT}/{name}" for name in (_MADE, *(each for each in found if each != _MADE))]


def _finish(
    plan: Plan,
    source: Source,
    calibration: Mapping[str, Any] | None,
    made: Mapping[str, Any],
    hidden: Path,
    final: Path,
    key: str,
) -> None:
    """Puts everything into a folder, and gives that its name."""
    ready = hidden / "ready"
    if ready.exists():
        shutil.rmtree(ready)
    ready.mkdir()
    context: int | None = made["context"]
    build = {**plan.build, "max_context": context} if plan.context is not None else plan.build
    file = names.file_name(plan.name, build, plan.release)
    checksums = dict(made["files"])
    adapters: list[str] = []
    for name in checksums:
        adapter = name != f"{_EXPORT}/{_MADE}"
        target = file.replace(".rkllm", f"-lora{len(adapters)}.rkllm") if adapter else file
        adapters += [target] if adapter else []
        _link(hidden / name, ready / target)
    described = card.card(
        plan,
        source,
        file=file,
        size=(ready / file).stat().st_size,
        checksum=checksums[f"{_EXPORT}/{_MADE}"],
        key=key,
        context=context,
        calibration=calibration,
        lora=tuple(adapters),
    )
    card.write(ready, described, card.modelfile(file, source, context), source)
    for path in (*ready.iterdir(), ready):
        steps.sync(path)
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        final.rename(old)
    ready.rename(final)
    steps.sync(final.parent)
    if old.exists():
        shutil.rmtree(old)


def _link(made: Path, target: Path) -> None:
    """A second name, so that a break before the end costs nothing. Without links on the disk, it is moved."""
    with contextlib.suppress(OSError):
        os.link(str(made), str(target))
    if not target.exists():
        made.replace(target)
