"""`rkllama` on a board that is a folder: what the kernel says of an RK3588, written down.

Run as a program it is the command; `BOARD` is the folder.
"""

import os
from pathlib import Path

from tests.e2e.npu import NpuServer


class BoardServer(NpuServer):
    program = "tests.deploy.board"


if __name__ == "__main__":
    from rkllama.cli import app

    app(obj=Path(os.environ["BOARD"]), prog_name="rkllama")
