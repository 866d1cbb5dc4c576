"""Calls the toolkit: the one file that imports it. It runs as a script, in the Python that has the toolkit.

`python call_toolkit.py JOB` reads a JSON file: `report`, a file to append a JSON line to before and behind
each call, and `calls`, a list of method, positional and named arguments; without `calls` it only says what is
installed. It imports nothing but the standard library and the toolkit, as that Python may have nothing else
of ours. What the toolkit prints goes where this process' output goes.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import inspect
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

# The exit status for a call that failed; the report says which.
FAILED = 3
_METHODS = ("load_huggingface", "load_gguf", "build", "export_rkllm")


# From Linux's <sys/prctl.h>: whoever began this may be killed, and nobody would end hours of work then.
_PR_SET_PDEATHSIG = 1


def main() -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    with open(job["report"], "a", encoding="utf-8") as report:
        if "calls" not in job:
            _write(report, _installed())
            return 0
        return _run(job["calls"], report)


def _run(calls: list[dict[str, Any]], report: Any) -> int:
    _write(report, {"begins": "import"})
    try:
        toolkit = importlib.import_module("rkllm.api").RKLLM()
    except BaseException as error:
        traceback.print_exc()
        _write(report, {"failed": "import", "error": f"{type(error).__name__}: {error}"})
        return FAILED
    for call in calls:
        method, arguments = call["method"], call["arguments"]
        _write(report, {"begins": method})
        began = time.monotonic()
        try:
            returned = getattr(toolkit, method)(*call["positional"], **arguments)
        except BaseException as error:  # the toolkit exits by itself, too
            traceback.print_exc()
            _write(report, {"failed": method, "error": f"{type(error).__name__}: {error}"})
            return FAILED
        seconds = round(time.monotonic() - began, 3)
        _write(report, {"ended": method, "returned": _plain(returned), "seconds": seconds})
        if returned != 0 or isinstance(returned, bool):
            return FAILED
    return 0


def _installed() -> dict[str, Any]:
    """What this Python has. The toolkit is imported, so this takes seconds and may fail, which is said."""
    found: dict[str, Any] = {"python": list(sys.version_info[:2]), "toolkit": _version("rkllm-toolkit")}
    found["libraries"] = {name: _version(name) for name in ("torch", "transformers", "numpy", "datasets")}
    if importlib.util.find_spec("rkllm") is None:
        return found
    try:
        made = importlib.import_module("rkllm.api").RKLLM
        found["signatures"] = {name: _parameters(getattr(made, name, None)) for name in _METHODS}
    except BaseException as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}"
    found["cuda"] = _cuda()
    return found


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _parameters(method: Any) -> list[str] | None:
    """Names; None for a method that does not show them, as compiled ones do not."""
    if method is None:
        return []
    try:
        listed = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in listed):
        return None
    return [each.name for each in listed if each.name != "self"]


def _cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    return bool(importlib.import_module("torch").cuda.is_available())


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, str, bool)) or value is None else repr(value)


def _write(report: Any, entry: dict[str, Any]) -> None:
    """On the disk before the next call, which may end the process."""
    report.write(json.dumps(entry) + "\n")
    report.flush()
    os.fsync(report.fileno())


if __name__ == "__main__":
    sys.exit(main())
