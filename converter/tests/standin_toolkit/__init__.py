"""A stand-in for the vendor's toolkit: `rkllm.api` of three releases, for machines without the real one.

Each release has the documented signatures and refuses any other parameter. What it makes is a file that the
stand-in runtime (`standin/`) loads as an `.rkllm` model, from the bundled model's folder. By environment:

    TOOLKIT_STANDIN_RECORD=FILE    a JSON line for each call: method and arguments, as they came
    TOOLKIT_STANDIN_FAULT=METHOD:KIND[:TEXT]    what goes wrong in that method, which is one of
        returns    it prints `ERROR: TEXT` and returns -1     none     it returns nothing at all
        raises     it raises RuntimeError(TEXT)               exits    it ends the process with status 1
        killed, segfault    it ends the process by SIGKILL or SIGSEGV
        full       half a file is written, and it returns -1 for want of room (export_rkllm)
        half       half a file is written, and it returns 0 (export_rkllm)
        nothing    it returns 0 and has written no file (export_rkllm)
        context    it makes the file for TEXT tokens, and says so (build)
        hangs      it prints "hanging" and waits for ever
"""

import textwrap
from pathlib import Path

RELEASES = ("1.1.4", "1.2.3", "1.3.0")


def install(folder: Path, release: str) -> Path:
    """Makes a folder for PYTHONPATH that has the toolkit of that release installed."""
    api = folder / "rkllm"
    api.mkdir(parents=True)
    (api / "__init__.py").write_text("")
    module = f"release_{release.replace('.', '_')}"
    (api / "api.py").write_text(f"from standin_toolkit.{module} import RKLLM\n\n__all__ = ['RKLLM']\n")
    for name, version in (("rkllm_toolkit", release), ("datasets", "4.1.1")):
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        metadata = f"""\
            Metadata-Version: 2.1
            Name: {name.replace("_", "-")}
            Version: {version}
            """
        (info / "METADATA").write_text(textwrap.dedent(metadata))
    return folder
