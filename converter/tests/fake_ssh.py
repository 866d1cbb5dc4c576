"""A board that `ssh`, `scp` and `rsync` reach without a network: a folder that is its home.

The commands stand first in PATH. `ssh` runs what it is asked for in a shell there, `scp` and `rsync` copy
into it; each adds a line to `log`. `BREAKS` in the environment names a command that fails, or `corrupts`.
"""

import os
import stat
from pathlib import Path

_SSH = """#!/bin/bash
echo "ssh $*" >> "{log}"
[ "$BREAKS" = ssh ] && {{ echo "ssh: connect to host board port 22: No route to host" >&2; exit 255; }}
while [[ "$1" == -* ]]; do shift 2; done
host=$1; shift
cd "{home}" && exec env HOME="{home}" PATH="{there}:/usr/bin:/bin" bash -c "$*"
"""
_COPY = """#!/bin/bash
echo "{name} $*" >> "{log}"
[ "$BREAKS" = {name} ] && {{ echo "{name}: connection lost" >&2; exit 1; }}
files=(); rest=("$@")
for each in "$@"; do [ -f "$each" ] && files+=("$each"); done
target=${{rest[-1]#*:}}
cd "{home}" && cp "${{files[@]}}" "{home}/$(eval echo "$target")"
[ "$BREAKS" = corrupts ] && echo damage >> "$(ls "{home}/$(eval echo "$target")"/*.rkllm)"
exit 0
"""


class FakeBoard:
    def __init__(self, folder: Path, *, rsync: bool) -> None:
        self.home, self.log = folder / "home", folder / "log"
        self._bin, there = folder / "bin", folder / "there"
        for each in (self.home, self._bin, there):
            each.mkdir(parents=True)
        self._write(self._bin / "ssh", _SSH.format(log=self.log, home=self.home, there=there))
        for name in ("scp", "rsync") if rsync else ("scp",):
            self._write(self._bin / name, _COPY.format(name=name, log=self.log, home=self.home))
        if rsync:
            self._write(there / "rsync", "#!/bin/bash\n")

    @property
    def path(self) -> str:
        """PATH with the commands, and without a real rsync."""
        return f"{self._bin}{os.pathsep}/usr/bin{os.pathsep}/bin"

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())

    @staticmethod
    def _write(path: Path, content: str) -> None:
        path.write_text(content)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
