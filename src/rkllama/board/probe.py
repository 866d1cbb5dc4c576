"""Which release a library is, found out in a process of its own: loading a foreign library may end it.

`python -m rkllama.board.probe LIBRARY` is that process.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from exo.errors import EngineFailed, ExoError, NotReady
from rkllama.vendor.library import chosen_release, open_library

# What the library prints may surround the answer.
_RELEASE, _ERROR = "rkllama.board.probe release: ", "rkllama.board.probe error: "
_SECONDS = 60.0


def release_of(
    library: Path, *, environment: Mapping[str, str] | None = None, seconds: float = _SECONDS
) -> str:
    """Like "1.2.1-1.2.3", in this `environment` or the process' own. Blocks. NotReady says why the library
    cannot be used, EngineFailed how it broke."""
    command = [sys.executable, "-m", "rkllama.board.probe", str(library)]
    try:
        ended = subprocess.run(command, capture_output=True, check=False, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"{library} does not say within {seconds:g} s which release it is.") from error
    for line in ended.stdout.decode(errors="replace").splitlines():
        if line.startswith(_RELEASE):
            return line.removeprefix(_RELEASE)
        if line.startswith(_ERROR):
            raise NotReady(line.removeprefix(_ERROR))
    code = ended.returncode
    how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    raise EngineFailed(f"{library} ended the process that loaded it ({how}). Install it again.")


def main() -> None:
    try:
        library = open_library(Path(sys.argv[1]), chosen_release(os.environ))
    except ExoError as error:
        print(f"\n{_ERROR}{error.message}")
    else:
        print(f"\n{_RELEASE}{library.release}")


if __name__ == "__main__":
    main()
