"""The processes with shards that this one has started."""

import psutil


def workers() -> list[psutil.Process]:
    """Those that run, in the order of their start. Other tests have children of other kinds."""
    return [child for child in psutil.Process().children() if "exo.shards.worker" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
