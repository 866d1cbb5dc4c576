"""The toolkit in a process of its own, which may print, crash and be killed as it likes.

Its output is read as it comes, kept in a file, and understood by `log`; what it was called with and returned
is in the report of `call_toolkit`. The Python may be another one than this: the toolkit pins its own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from rkllm_convert import process, table
from rkllm_convert.errors import NotReady, ToolkitFailed
from rkllm_convert.log import Progress, Reader

_CHILD = Path(__file__).with_name("children") / "call_toolkit.py"


@dataclass(frozen=True)
class Installed:
    """What a Python has. `signatures` are parameters by method, None for one that does not show them."""

    python: tuple[int, int]
    toolkit: str | None = None
    libraries: Mapping[str, str | None] = field(default_factory=dict)
    signatures: Mapping[str, list[str] | None] = field(default_factory=dict)
    cuda: bool = False
    error: str = ""


@dataclass(frozen=True)
class Call:
    """A call of one of the toolkit's methods."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    positional: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of the calls. `context` is what the toolkit says it has made the file for, in tokens."""

    seconds: Mapping[str, float]
    context: int | None


def inspect(python: str, *, seconds: float = 300.0) -> Installed:
    """Asks that Python. Raises `NotReady` where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        job, report = Path(folder) / "job.json", Path(folder) / "report.jsonl"
        job.write_text(json.dumps({"report": str(report)}), encoding="utf-8")
        try:
            done = subprocess.run(
                [python, str(_CHILD), str(job)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except OSError as error:
            raise NotReady(
                f"{python} cannot be run: {error.strerror}. Name a Python with --python."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise NotReady(f"{python} did not import the toolkit within {seconds:g} s") from error
        entries = _report(report)
        if not entries:
            said = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise NotReady(f"{python} ended with {process.ending(done.returncode)}: {said[0]}")
    found = entries[0]
    return Installed(
        python=(found["python"][0], found["python"][1]),
        toolkit=found["toolkit"],
        libraries=found["libraries"],
        signatures=found.get("signatures", {}),
        cuda=found.get("cuda", False),
        error=found.get("error", ""),
    )


def differences(installed: Installed) -> list[str]:
    """Parameters that we would pass, by `table`, and that the installed toolkit does not take."""
    release = table.release_of(installed.toolkit or "")
    known = table.toolkit(release) if release else None
    if known is None:
        return []
    found = []
    for method, ours in (("load_huggingface", known.load), ("build", known.build)):
        theirs = installed.signatures.get(method)
        if theirs is not None:
            found += [f"{method}({name})" for name in sorted(ours) if name not in theirs]
    return found


def run(
    python: str,
    calls: Sequence[Call],
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> Outcome:
    """Makes the calls in turn, in `folder`, where `toolkit.log` and `report.jsonl` stay.

    Raises `ToolkitFailed` for the first that returns anything but 0, raises, or ends the process, with what
    the log says of the cause. Interrupted, it ends the process and all that it has started.
    """
    report, log = folder / "report.jsonl", folder / "toolkit.log"
    if report.exists():
        report.unlink()
    job = {"report": str(report), "calls": [asdict(call) for call in calls]}
    status, reader = process.watch(python, _CHILD, job, folder, log, on_progress)
    entries = _report(report)
    if status:
        raise _failure(status, entries, reader, log)
    return Outcome({each["ended"]: each["seconds"] for each in entries if "ended" in each}, reader.context)


def _failure(status: int, entries: Sequence[Mapping[str, Any]], reader: Reader, log: Path) -> ToolkitFailed:
    begun = [each["begins"] for each in entries if "begins" in each]
    method = begun[-1] if begun else "import"
    last = entries[-1] if entries else {}
    what = f"The toolkit's {method}"
    if "failed" in last:
        what += f" raised {last['error']}"
        reader.feed(f"ERROR: {last['error']}")
    elif "ended" in last:
        what += f" returned {last['returned']}"
    else:
        what += f" ended its process with {process.ending(status)}"
        if status == -signal.SIGKILL:
            reader.feed("Killed")  # which the shell would have said: most often the kernel, out of memory
    problem = reader.problem()
    if problem:
        return ToolkitFailed(f"{what}: {problem.says}. {problem.remedy} Its log: {log}", code=problem.code)
    said = reader.errors[-1] if reader.errors else "it says no more"
    return ToolkitFailed(f"{what}: {said}. Its log: {log}")


def _report(path: Path) -> list[dict[str, Any]]:
    """Its whole lines: one that was being written when the process died is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
